"""The wheel with the base of its dependencies alone does all but train, and says what it lacks."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.exported import write_run
from tests.support.installed import Environment, build_wheel

_COMMANDS = """
import contextlib, io, json, sys
from mgcda_dist.cli.main import main
for words in json.loads(sys.argv[1]):
    sys.argv, out, code = ["mgcda", *words], io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    print(json.dumps([code, out.getvalue()]))
"""
"""Several commands in one process, which imports torch once."""


def _frames(folder: Path, count: int = 3) -> None:
    generator = np.random.default_rng(0)
    for name in ("frames/images", "frames/labels", "maps"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        label = np.zeros((64, 96), np.uint8)
        label[20:30, 20 + index : 40] = 1
        image = generator.integers(0, 256, (64, 96, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"frames/images/f{index}.png"), image)
        cv2.imwrite(str(folder / f"frames/labels/f{index}.png"), label)
        np.save(folder / f"maps/f{index}.npy", (label + generator.random((64, 96))).astype(np.float32))


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_the_base_does_all_but_train_and_says_so(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env", build_wheel(tmp_path / "dist"))
    assert {"torch", "timm", "scipy", "webdataset"} <= environment.linked
    assert not {"ray", "deepspeed", "mlflow", "psutil", "aiohttp"} & environment.linked
    work = tmp_path / "work"
    _frames(work)
    write_run(work / "tiny")
    version = environment.run("mgcda", "--version", cwd=work)
    assert version.stdout.startswith("mgcda_dist ") and not version.stderr

    commands = [
        "shards write plain frames shards --split test",
        "evaluate --maps maps --data shards --out evaluated",
        "predict tiny frames/images/f0.png --threshold 0 --write overlay,npy --out predicted",
        "export tiny exported --no-verify",
        "report evaluated --out page.html",
        "config check configs/demo.yaml --no-files",
        "config check configs/demo.yml --no-files",
        "train configs/demo.yaml",
        "demo",
        "shards write plain frames others --workers ray",
        "evaluate --maps maps --data shards --mlflow-uri sqlite:///x.db",
    ]
    listed = json.dumps([command.split() for command in commands])
    done = environment.run("python", "-c", _COMMANDS, listed, cwd=work)
    assert done.returncode == 0, done.stderr
    ended = dict(zip(commands, map(json.loads, done.stdout.splitlines()), strict=True))
    refused = [command for command, (code, _) in ended.items() if code]
    assert refused == commands[6:], ended
    assert all("Traceback" not in said for _, said in ended.values())
    assert "did you mean configs/demo.yaml" in ended[commands[6]][1]
    for command in commands[7:]:
        assert "not installed\n  → " in ended[command][1] and ".whl[train]'" in ended[command][1], ended[command]

    results = json.loads((work / "evaluated/results.json").read_text())
    assert [row["ap"] for row in results["sets"].values()] == [pytest.approx(1.0)]
    assert (work / "predicted/f0.overlay.png").is_file() and (work / "predicted/f0.score.npy").is_file()
    assert {path.name for path in (work / "exported").iterdir()} > {"model.safetensors", "model.pt2"}
    assert not (work / "others").exists()
