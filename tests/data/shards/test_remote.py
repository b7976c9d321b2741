"""Remote shards from real servers: nginx over HTTP, an S3 server; faults of servers, of files, of processes."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards import remote
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.remote import RemoteFolder, ShardCache
from mgcda_dist.data.shards.tables import SHARD_TABLE
from mgcda_dist.errors import ShardError, TransientError
from tests.support.network import free_port, wait_until_it_listens
from tests.support.shards import all_samples, verified, write_frames

pytestmark = pytest.mark.usefixtures("cache")
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
needs_nginx = pytest.mark.skipif(
    not Path(NGINX).exists(), reason="nginx is not installed (apt-get install nginx-light)"
)
CONFIG = """\
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1; {user}
events {{ worker_connections 64; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    server {{ listen 127.0.0.1:{port}; root {root}; location /slow/ {{ alias {root}/; limit_rate 3k; }} }}
}}
"""


class Nginx:
    """A server over a folder that can be stopped and started again."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.port = folder, free_port()
        user = "user root;" if os.getuid() == 0 else ""
        (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, root=root, port=self.port, user=user))
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([NGINX, "-c", f"{self.folder}/nginx.conf", "-p", str(self.folder)])
        wait_until_it_listens(self.port)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture
def local(tmp_path: Path) -> Manifest:
    return write_frames(tmp_path / "root" / "frames", 12, per_shard=3)


@pytest.fixture
def server(tmp_path: Path, local: Manifest) -> Iterator[Nginx]:
    (tmp_path / "server").mkdir()
    nginx = Nginx(tmp_path / "server", local.folder.parent)
    yield nginx
    nginx.stop()


def test_a_process_forked_under_a_lock_can_take_it(tmp_path: Path) -> None:
    """Loader processes may be forked while a thread fetches: they inherit its open lock file."""

    def take() -> None:
        with remote._locked(tmp_path / "lock"):
            pass

    process = multiprocessing.get_context("fork").Process(target=take)
    with remote._locked(tmp_path / "lock"):
        process.start()
    process.join(timeout=20)
    exitcode = process.exitcode
    process.kill()
    assert exitcode == 0


@needs_nginx
def test_http_gives_the_same_samples_and_fetches_each_file_once(server: Nginx, local: Manifest) -> None:
    manifest = Manifest.open(f"{server.url}/frames/")
    assert manifest.digest == local.digest and manifest.place == f"{server.url}/frames"
    for _ in range(2):
        assert all_samples(manifest) == all_samples(local)
    fetched = [line.split('"')[1] for line in (server.folder / "access.log").read_text().splitlines() if "GET" in line]
    assert sorted(line.split()[1] for line in fetched if ".tar" in line) == [
        f"/frames/shard-{i:06d}.tar" for i in range(4)
    ]
    assert not verified(f"{server.url}/frames").problems


@needs_nginx
def test_what_a_later_step_needs_is_fetched_before(server: Nginx, local: Manifest) -> None:
    reader = ShardReader(Manifest.open(f"{server.url}/frames"))
    reader.prefetch(11)
    mirrored = reader.manifest.folder / "shard-000003.tar"
    while not mirrored.is_file():
        time.sleep(0.02)


@needs_nginx
def test_a_server_that_stays_away_is_named_without_its_secrets(server: Nginx, local: Manifest) -> None:
    url = server.url.replace("://", "://anna:geheim@") + "/frames"
    manifest = Manifest.open(url)
    server.stop()
    with pytest.raises(TransientError) as caught:
        ShardReader(manifest).read(0)
    server.start()
    assert f"{server.url}/frames/shard-000000" in str(caught.value) and "6 tries" in str(caught.value)
    assert "geheim" not in str(caught.value)


@needs_nginx
def test_damage_on_the_server_is_an_error_of_its_shard(server: Nginx, local: Manifest) -> None:
    path = local.shard_path(1)
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    local.shard_path(2).write_bytes(local.shard_path(2).read_bytes()[:-100])
    local.shard_path(3).unlink()
    manifest = Manifest.open(f"{server.url}/frames")
    reader = ShardReader(manifest)
    for index, problem in ((3, "checksum differs"), (6, "bytes arrive instead of"), (9, "there is no such file")):
        with pytest.raises(ShardError, match=problem):
            reader.read(index)
    assert not list(manifest.folder.glob(".*.part"))
    problems = verified(f"{server.url}/frames").problems
    assert [problem.shard for problem in problems] == [f"shard-00000{i}.tar" for i in (1, 2, 3)]


@needs_nginx
def test_a_sample_table_that_was_mirrored_in_pieces_is_fetched_again(server: Nginx, local: Manifest) -> None:
    manifest = Manifest.open(f"{server.url}/frames")
    expected = all_samples(local)
    assert all_samples(manifest) == expected
    table = manifest.folder / "shard-000001.idx.npy"
    table.write_bytes(table.read_bytes()[:-40])
    assert all_samples(manifest) == expected
    (local.folder / "shard-000002.idx.npy").write_bytes(b"no table")
    (manifest.folder / "shard-000002.idx.npy").unlink()
    with pytest.raises(ShardError, match=r"shard-000002\.idx\.npy: not a readable NumPy table"):
        all_samples(manifest)


@needs_nginx
def test_a_folder_that_is_not_there(server: Nginx) -> None:
    with pytest.raises(ShardError, match=r"elsewhere/manifest\.json: there is no such file"):
        Manifest.open(f"{server.url}/elsewhere")


@needs_nginx
def test_new_shards_at_the_same_place_replace_the_mirrored_ones(server: Nginx, local: Manifest) -> None:
    before = all_samples(Manifest.open(f"{server.url}/frames"))
    shutil.rmtree(local.folder)
    again = write_frames(local.folder, 12, seed=9, per_shard=3)
    now = all_samples(Manifest.open(f"{server.url}/frames"))
    assert now == all_samples(again) != before


def test_a_shard_table_that_was_mirrored_while_the_folder_was_copied_is_fetched_again(local: Manifest) -> None:
    """Copies go by name, the manifest first: between the two the table is still that of the shards before."""
    place, table = f"file://{local.folder}", local.folder / SHARD_TABLE
    now, before = table.read_bytes(), bytearray(table.read_bytes())
    before[-1] ^= 1
    table.write_bytes(before)
    with pytest.raises(ShardError, match="its digest is not that of"):
        Manifest.open(place)
    table.write_bytes(now)
    assert all_samples(Manifest.open(place)) == all_samples(local)


@needs_nginx
def test_processes_fetch_a_shard_once_and_a_killed_one_leaves_no_partial_file(
    server: Nginx, local: Manifest, cache: ShardCache
) -> None:
    url = f"{server.url}/slow/frames"
    code = (
        "import sys; from mgcda_dist.data.shards.manifest import Manifest; m = Manifest.open(sys.argv[1]);"
        "print('open', flush=True); print(m.shard_path(0))"
    )
    (row,) = local.table[:1]
    assert row["num_bytes"] > 9_000, "takes seconds at 3 kB/s"
    victim = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None and victim.stdout.readline() == "open\n"
    mirror = RemoteFolder(url, cache).mirror
    while not list(mirror.glob(".shard-000000.tar.*.part")):
        assert victim.poll() is None
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not (mirror / "shard-000000.tar").exists()
    both = [subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=60)[0].splitlines()[-1] for process in both}
    assert paths == {str(mirror / "shard-000000.tar")}
    assert hashlib.sha256(Path(paths.pop()).read_bytes()).digest() == row["sha256"].tobytes()
    whole = [line for line in (server.folder / "access.log").read_text().splitlines()
             if "shard-000000.tar" in line and f" 200 {row['num_bytes']}" in line]  # fmt: skip
    assert len(whole) == 1


def test_s3(local: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("s3fs", reason="the extra `remote` is not installed")
    boto3 = pytest.importorskip("boto3", reason="moto, which brings it, is not installed")
    port = free_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "moto.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until_it_listens(port)
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for path in local.folder.iterdir():
            if path.is_file():
                client.put_object(Bucket="bucket", Key=f"sets/frames/{path.name}", Body=path.read_bytes())
        client.close()
        code = (
            "import sys, hashlib; from mgcda_dist.data.reader import ShardReader;"
            "from mgcda_dist.data.shards.manifest import Manifest; r = ShardReader(Manifest.open(sys.argv[1]));"
            "print(hashlib.sha256(b''.join(r.read(i).image for i in range(len(r)))).hexdigest())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "s3://bucket/sets/frames"], capture_output=True, text=True, check=False
        )
        expected = hashlib.sha256(b"".join(image for _, image, _ in all_samples(local))).hexdigest()
        assert done.stdout.strip() == expected, done.stderr
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(ShardError, match=r"in the repository: .*'\.\[remote\]'"):
        Manifest.open("s3://bucket/frames")
