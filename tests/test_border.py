"""No command on a folder of others reads, writes or connects outside of it: every file and address is watched."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.data.shards.manifest import Manifest, manifest_digest
from tests.support.evaluations import write_evaluated_run
from tests.support.exported import write_run
from tests.support.shards import encoded, frame, write_frames
from tests.support.watched_files import Touched, run_watched

PRIVATE = "private.txt"
SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/etc",
    "/proc",
    "/sys",
    "/dev",
    "/opt",
    "/bin",
    "/sbin",
    "/run",
    "/var/lib",
    "/var/cache",
)


@pytest.fixture(scope="module")
def listener() -> Iterator[str]:
    """An address that a folder names, where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def edited(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def foreign_folders(root: Path, outside: Path, address: str) -> None:
    """`named`: documents that name files and addresses elsewhere. `linked`: documents that are links."""
    secret, up = str(outside / PRIVATE), "../" * 12 + str(outside / PRIVATE).lstrip("/")
    for folder in (root / "named", root / "linked"):
        write_evaluated_run(folder / "run")
        write_run(folder / "run", {"sets": []})
        write_frames(folder / "shards", 4)
    run, shards = root / "named/run", root / "named/shards"
    calls: list[dict[str, Any]] = [
        {"call": "start", "experiment": "e", "name": "n", "uri": address},
        *({"call": "artifact", "path": path, "folder": ""} for path in (secret, up, "linked")),
        {"call": "picture", "name": f"{outside}/planted.png", "path": "evaluation/results.json", "step": None},
        {"call": "model", "path": str(outside), "register_as": None},
        {"call": "end", "status": "FINISHED"},
    ]
    (run / "record.jsonl").write_text("".join(json.dumps({"time": 1.7e9} | call) + "\n" for call in calls))
    (run / "linked").symlink_to(outside / PRIVATE)
    sets = [{"name": "far", "shards": f"{address}/shards"}, {"name": "near", "shards": str(outside / "shards")}]

    def model(content: dict[str, Any]) -> None:
        content |= {"name": f"{outside}/planted"}
        content["architecture"] |= {"weights": f"file:{secret}"}
        content["config"]["evaluation"]["sets"] = sets
        content["config"]["model"]["weights"] = f"file:{secret}"

    def frames(content: dict[str, Any]) -> None:
        for entry in content["frames"]:
            entry |= {"image": secret, "score": up, "label": secret}

    edited(run / "model/model.json", model)
    edited(run / "evaluation/sets/seen/frames.json", frames)
    for file in ("results.json", "evaluation/results.json"):
        edited(run / file, lambda content: content["sets"].update({up: content["sets"]["seen"]}))
    edited(run / "manifests.json", lambda content: content["train/a"].update(folder=str(outside), dataset="\x1b[2J"))
    planted = replace(Manifest.open(shards), dataset=str(outside / "planted"), split="../x")
    replace(planted, digest=manifest_digest(planted.table, *planted.identity)).save()  # who plants it computes it, too

    run, shards = root / "linked/run", root / "linked/shards"
    outward = [
        run / name
        for name in (".lock", "record.jsonl", "metrics.jsonl", "mlflow_run_id", "mlflow.json", "provenance.json",
                     "events.jsonl", "manifests.json", "evaluation/results.json")
    ]  # fmt: skip
    for file in (*outward, shards / "shards.npy", shards / "shard-000000.tar"):
        target = outside / f"of-{file.name}"
        target.write_bytes(file.read_bytes() if file.exists() else b"{}")
        file.unlink(missing_ok=True)
        file.symlink_to(target)


@pytest.fixture(scope="module")
def touched(tmp_path_factory: pytest.TempPathFactory, listener: str) -> tuple[Path, Touched, list[list[object]]]:
    """All commands on the hostile folders of a sandbox; its folder, what they touched, and the commands."""
    sandbox = tmp_path_factory.mktemp("sandbox")
    root, outside, work = sandbox / "foreign", sandbox / "outside", sandbox / "work"
    write_frames(outside / "shards", 2)
    (outside / PRIVATE).write_text("private")
    (outside / "planted_..").mkdir()
    foreign_folders(root, outside, listener)
    pictures = root / "pictures"
    pictures.mkdir()
    (pictures / "good.png").write_bytes(encoded(frame(0)[0]))
    (pictures / ("l" * 246 + ".png")).write_bytes(encoded(frame(1)[0]))
    (pictures / "control\x1b[31m\n.png").write_bytes(encoded(frame(2)[0]))
    os.mkfifo(pictures / "pipe.png")
    os.mkfifo(pictures / "pipe.mp4")
    (pictures / "endless.png").symlink_to("/dev/zero")
    (pictures / "playlist.avi").write_text(f"#EXTM3U\n#EXTINF:1,\n{outside}/{PRIVATE}\n")
    database = f"sqlite:///{work}/mlflow.db"
    commands: list[list[object]] = []
    for folder in (root / "named", root / "linked"):
        run, shards = folder / "run", folder / "shards"
        commands += [
            ["shards", "show", shards],
            ["shards", "verify", shards],
            ["shards", "ls", folder],
            ["sync", run],
            ["sync", run, "--mlflow-uri", database],
            ["report", run, "--out", work / "report.html"],
            ["compare", run, run / "evaluation", "--out", work / "comparison"],
            ["predict", run, pictures, "--threshold", "0"],
            ["export", run, work / f"export-{folder.name}", "--format", "safetensors", "--no-verify"],
            ["evaluate", run],
            ["evaluate", run, "--data", shards, "--kept", "1"],
            ["evaluate", run, "--data", root / "named/shards", "--kept", "1"],
            ["evaluate", "--maps", pictures, "--data", root / "named/shards"],
            ["calibrate", run, "--data", root / "named/shards"],
        ]
    return sandbox, run_watched(commands, sandbox), commands


@pytest.mark.slow
def test_no_command_leaves_the_folder(touched: tuple[Path, Touched, list[list[object]]], listener: str) -> None:
    sandbox, found, _ = touched
    libraries = tuple({sys.prefix, sys.base_prefix, *filter(None, sys.path), *SYSTEM})
    own = tuple(str(sandbox / name) for name in ("foreign", "work", "home", "tmp", "audit.jsonl"))
    read = [str(path) for path in found.read if not str(path).startswith((*libraries, *own))]
    assert not [path for path in read if path.startswith(str(sandbox / "outside"))], read
    assert not [path for path in read if not Path(path).is_dir()], read
    written = [str(path) for path in found.written if not str(path).startswith((*own, "/dev/", "/proc/self"))]
    assert not written
    assert not [each for each in found.connected if listener.rpartition(":")[2] in each], found.connected
    assert sorted(path.name for path in (sandbox / "outside").iterdir() if not path.name.startswith("of-")) == [
        "planted_..", PRIVATE, "shards",
    ]  # fmt: skip
    assert not list((sandbox / "outside/planted_..").iterdir())


@pytest.mark.slow
def test_every_command_ends_with_its_own_words(touched: tuple[Path, Touched, list[list[object]]]) -> None:
    sandbox, found, commands = touched
    assert "Traceback" not in found.output, found.output
    assert "\x1b[31m" not in found.output and "\x1b[2J" not in found.output
    codes = dict(zip((f"{' '.join(map(str, words[:2]))}" for words in commands), found.codes, strict=True))
    assert set(found.codes) <= {0, 1, 2}, codes
    assert (sandbox / "work/named_shards.png").is_file()
    assert (sandbox / "work/predictions/run/good.json").is_file()
    record = json.loads((sandbox / "work/predictions/run/predictions.json").read_text())
    assert len(record["inputs"]) == 3 and len(record["failed"]) == 4, record
