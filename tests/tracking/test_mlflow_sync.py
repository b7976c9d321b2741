"""`mgcda sync` of a record that comes from others: what it sends, and where to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.errors import MgcdaError
from mgcda_dist.tracking.mlflow_client import connect
from mgcda_dist.tracking.mlflow_sync import Synced, sync
from tests.support.commands import invoke, refusal
from tests.support.tracked import tracked

SECRET = "the password of this machine"


def foreign_record(folder: Path, *calls: dict[str, Any], uri: str = "http://127.0.0.1:9") -> Path:
    """A run folder with these calls between a start and an end."""
    folder.mkdir(parents=True, exist_ok=True)
    start = {"call": "start", "experiment": "theirs", "name": "theirs", "uri": uri}
    after = [{"call": "tags", "tags": {"after": "yes"}}, {"call": "end", "status": "FINISHED"}]
    text = "".join(json.dumps({"time": 1750000000.0} | line) + "\n" for line in [start, *calls, *after])
    (folder / "record.jsonl").write_text(text)
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    place = tmp_path / "home"
    place.mkdir()
    (place / "id_rsa").write_text(SECRET)
    return place


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mine')}/mlflow.db"


def sent(done: Synced) -> str:
    """Everything that the server has got, as text."""
    place = Path(done.uri.removeprefix("sqlite:///")).parent
    files = [path.read_text(errors="replace") for path in place.rglob("*") if path.is_file()]
    return "\n".join([*files, str(connect(done.uri).get_run(done.run_id).to_dictionary())])


@pytest.mark.parametrize("form", ["absolute", "dots", "link", "folder", "link below"])
@pytest.mark.parametrize("call", ["artifact", "picture", "model"])
def test_no_file_outside_of_the_folder_is_sent(form: str, call: str, tmp_path: Path, outside: Path, uri: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "link").symlink_to(outside / "id_rsa")
    (run / "linked").symlink_to(outside)
    (run / "deep").mkdir()
    (run / "deep/also").symlink_to(outside)
    paths = {
        "absolute": str(outside / "id_rsa"), "dots": "../home/id_rsa", "link": "link",
        "folder": "linked", "link below": "deep",
    }  # fmt: skip
    more = {"artifact": {"folder": ""}, "picture": {"name": "p", "step": None}, "model": {"register_as": None}}
    foreign_record(run, {"call": call, "path": paths[form], **more[call]})
    done = sync(run, uri)
    assert SECRET not in sent(done)
    assert len(done.refused) == 1 and paths[form] in done.refused[0]
    assert connect(uri).get_run(done.run_id).data.tags["after"] == "yes", "the rest is delivered"


@pytest.mark.parametrize(
    "call",
    [
        {"call": "picture", "name": "{out}/planted.png", "path": "own.png", "step": None},
        {"call": "picture", "name": "../../../../planted.png", "path": "own.png", "step": None},
        {"call": "artifact", "path": "own.png", "folder": "../../../../planted"},
        {"call": "artifact", "path": "own.png", "folder": "{out}"},
        {"call": "artifact", "path": ["own.png"], "folder": ""},
        {"call": "artifact"},
        {"call": "tags", "tags": ["a"]},
        {"call": "params", "params": {"a": {"b": "c"}}},
        {"call": "shell", "command": "true"},
        {"call": 7},
    ],
)
def test_a_call_that_fits_no_schema_is_left_out(call: dict[str, Any], tmp_path: Path, uri: str) -> None:
    call = json.loads(json.dumps(call).replace("{out}", str(tmp_path / "out")))
    run = foreign_record(tmp_path / "run", call)
    (run / "own.png").write_text("own")
    done = sync(run, uri)
    assert len(done.refused) == 1, done.refused
    assert not list(tmp_path.rglob("planted*")) and not (tmp_path / "out").exists()
    assert connect(uri).get_run(done.run_id).data.tags["after"] == "yes"


def test_only_the_user_names_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    theirs = f"sqlite:///{tmp_path}/theirs/new.db"
    for address in ("http://127.0.0.1:9", theirs, "file:///tmp/x"):
        run = foreign_record(tmp_path / "a/run", uri=address)
        with pytest.raises(MgcdaError, match="is not asked where to") as caught:
            sync(run)
        assert address in str(caught.value) and not (tmp_path / "theirs").exists()
    named = tmp_path / "named.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{named}")
    assert sync(run).uri == f"sqlite:///{named}"


def test_a_run_beside_its_database_needs_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    tracker = tracked(tmp_path / "runs/demo", uri, "own", "demo")
    tracker.close("FINISHED")
    (tmp_path / "runs").rename(tmp_path / "moved")
    done = invoke("sync", tmp_path / "moved")
    assert done.exit_code == 0 and f"run {tracker.run_id}, sqlite:///{tmp_path}/moved/mlflow.db" in done.output


def test_a_record_that_is_a_link_is_not_followed(tmp_path: Path, uri: str) -> None:
    mine = foreign_record(tmp_path / "mine-run")
    for name in ("record.jsonl", "metrics.jsonl", "mlflow.json", "mlflow_run_id", ".lock"):
        run = foreign_record(tmp_path / f"with {name}")
        target = tmp_path / f"target of {name}"
        target.write_bytes((mine / "record.jsonl").read_bytes()[:-30])  # without an end: it would be appended
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(target)
        before = target.read_bytes()
        assert "is a link" in str(refusal_of_sync(run, uri)), name
        assert target.read_bytes() == before
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/mine").symlink_to(mine)
    assert "holds no record" in str(refusal("sync", tmp_path / "theirs", "--mlflow-uri", uri))


def test_a_model_is_registered_on_demand_only(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str | None] = []
    monkeypatch.setattr("mgcda_dist.tracking.mlflow_model.log_model", lambda *of: given.append(of[3]))
    run = foreign_record(tmp_path / "run", {"call": "model", "path": "model", "register_as": "production"})
    (run / "model").mkdir()
    sync(run, uri)
    (run / "mlflow.json").unlink()
    sync(run, uri, register=True)
    assert given == [None, "production"]


@pytest.mark.parametrize("line", ['{"step": [], "time": 0, "metrics": {}}', '{"step": 1, "time": 0, "metrics": [1]}'])
def test_metrics_that_are_no_numbers_are_an_error(line: str, tmp_path: Path, uri: str) -> None:
    run = foreign_record(tmp_path / "run")
    (run / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(MgcdaError, match="holds no metrics of a step"):
        sync(run, uri)


def refusal_of_sync(run: Path, uri: str) -> str:
    """The output of the command, which goes on to the next run after an error."""
    done = invoke("sync", run, "--mlflow-uri", uri)
    assert done.exit_code == 2
    return done.output
