"""The check of a GPU: its sections end in time and alone, its measures find what is planted, and a trial on processors.

No GPU is needed: numbers and waits are those of a pretended one (`tests.support.pretended`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import torch

from benchmarks import sections
from benchmarks.gpu import flow, numbers, speed
from benchmarks.gpu.__main__ import check, main
from benchmarks.gpu.setting import Setting, Trainer, method, scene, segmenter
from benchmarks.sections import Findings, Section, SkippedError
from mgcda_dist.method import Batch
from mgcda_dist.training.ahead import CopiedAhead
from tests.support.pretended import DEVICE, pretended_device
from tests.support.tiny import tiny_batch

HOST = Setting(torch.device("cpu"), tiny=True)
ROOT = Path(__file__).parents[1]


def well(setting: Setting, found: Findings) -> None:
    found.fact("card", "none | of a kind")
    found.row("times", network="a", ms=1.25, share=None)


def troubled(setting: Setting, found: Findings) -> None:
    found.row("times", network="a", ms=1.0)
    found.problem("it is slow")


def broken(setting: Setting, found: Findings) -> None:
    found.row("times", network="a", ms=1.0)
    raise RuntimeError("an illegal memory access")


def killed(setting: Setting, found: Findings) -> None:
    found.fact("begun", True)
    os._exit(9)


def endless(setting: Setting, found: Findings) -> None:
    found.fact("child", subprocess.Popen(["sleep", "60"]).pid)
    time.sleep(60)


def skipped(setting: Setting, found: Findings) -> None:
    raise SkippedError("deepspeed is not installed")


def done(tmp_path: Path, *jobs: Any, budget_s: float = 100.0, limit_s: float = 50.0) -> dict[str, Any]:
    check(HOST, {job.__name__: Section(job.__name__, job, limit_s) for job in jobs}, budget_s, tmp_path)
    return json.loads((tmp_path / "gpu.json").read_text())


def test_a_section_that_fails_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    found = done(tmp_path, broken, killed, troubled, skipped, well)
    assert found["exit_code"] == 1 and found["card"] == "none | of a kind"
    by_title = {section["title"]: section for section in found["sections"]}
    assert {name: section["status"] for name, section in by_title.items()} == {
        "broken": "failed", "killed": "failed", "troubled": "failed", "skipped": "skipped", "well": "passed",
    }  # fmt: skip
    assert "an illegal memory access" in by_title["broken"]["reason"] and by_title["broken"]["tables"]["times"]
    assert "exit code 9" in by_title["killed"]["reason"] and by_title["killed"]["facts"] == {"begun": True}
    text = (tmp_path / "gpu.md").read_text()
    assert "| a | 1.25 | – |" in text and "**it is slow**" in text and "Skipped: deepspeed is not installed" in text
    assert "RuntimeError: an illegal memory access" in text and r"none \| of a kind" in text


def test_a_section_that_hangs_ends_in_time_with_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "_LEAST_S", 0.1)
    found = done(tmp_path, endless, well, limit_s=0.5)
    hung, other = found["sections"]
    assert hung["status"] == "failed" and "ended after" in hung["reason"] and hung["seconds"] < 20
    assert other["status"] == "passed" and found["exit_code"] == 1
    deadline = time.monotonic() + 10  # of a process that is gone its parent may not have heard
    while Path(f"/proc/{hung['facts']['child']}/cmdline").exists() and time.monotonic() < deadline:
        if not Path(f"/proc/{hung['facts']['child']}/cmdline").read_bytes():
            break
        time.sleep(0.05)
    assert time.monotonic() < deadline


ENDLESS = """
import sys
from pathlib import Path
from benchmarks.sections import Section, run
from tests.test_gpu_check import HOST, endless
run(Section("endless", endless, 60), HOST, Path(sys.argv[1]), 60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end a process with its parent")
def test_a_section_ends_with_a_check_that_is_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], env=environment) as checking:
        deadline = time.monotonic() + 60
        while not (tmp_path / "0.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        (section,) = psutil.Process(checking.pid).children()
        children = section.children()
        checking.kill()
        try:
            section.wait(timeout=10)
        finally:
            for process in [section, *children]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def test_a_process_that_cannot_be_killed_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, killed_groups = list[float | None](), list[int]()
    stuck = SimpleNamespace(pid=4194305, exitcode=None, start=Mock(), kill=Mock(), is_alive=lambda: True)
    stuck.join = lambda timeout=None: waits.append(timeout)
    monkeypatch.setattr(sections, "get_context", lambda _: SimpleNamespace(Process=lambda **_: stuck))
    monkeypatch.setattr(sections.os, "killpg", lambda group, _: killed_groups.append(group))
    result = sections.run(Section("stuck", endless, 50), HOST, tmp_path, 100)
    assert result.status == "failed" and killed_groups == [stuck.pid]
    assert None not in waits


def late_to_leave(setting: Setting, found: Findings) -> None:
    Finalize(None, time.sleep, args=(60,), exitpriority=1)


def test_a_section_that_has_ended_but_not_left_keeps_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "_LEAST_S", 0.1)
    assert done(tmp_path, late_to_leave, limit_s=1.0)["sections"][0]["status"] == "passed"


def test_without_time_nothing_is_begun(tmp_path: Path) -> None:
    found = done(tmp_path, well, endless, budget_s=1.0)
    assert [section["status"] for section in found["sections"]] == ["no time", "no time"] and found["exit_code"] == 3


def test_all_is_well(tmp_path: Path) -> None:
    assert done(tmp_path, well, skipped)["exit_code"] == 0


def test_without_a_gpu_it_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["--out", str(tmp_path), "--only", "norms"]) == 2
    assert "--device cpu --tiny" in capfd.readouterr().err
    assert [s["status"] for s in json.loads((tmp_path / "gpu.json").read_text())["sections"]] == ["failed"]


def test_an_unknown_section_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--device", "cpu", "--tiny", "--only", "wait"])
    assert "no section wait; there are machine, agreement" in capsys.readouterr().err


@pytest.mark.usefixtures("one_thread")
def test_a_pretended_gpu_agrees_and_waits_once_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, values = HOST.small, list[dict[str, float]]()
    for device in (DEVICE, HOST.device):
        setting = Setting(device, tiny=True)
        model = method(segmenter(network), network.size)
        with pretended_device() as gpu:
            trainer = Trainer(model, setting)
            batch = scene(network, 0, setting)
            gpu.waits.clear()
            values.append(trainer.step(batch))
            assert sum(gpu.waits.values()) == (1 if device == DEVICE else 0), gpu.waits
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_waits_are_counted_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = list[str]()
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def action() -> None:
        for line in (7, 7, 9):
            place = ("/home/of/mgcda_dist/method/reduce.py", line)
            warnings.warn_explicit("called a synchronizing CUDA operation", UserWarning, *place)
        warnings.warn_explicit("another one", UserWarning, "/home/of/mgcda_dist/method/reduce.py", 11)
        warnings.warn_explicit("a synchronizing one", UserWarning, "/lib/site-packages/deepspeed/utils.py", 5)
        torch.cuda.synchronize()  # torch does not warn of it

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    found = speed.host_waits(action, Setting(DEVICE, tiny=True))
    assert found is not None
    (asked,) = (place for place in found if "test_gpu_check.py:" in place)
    assert found == {"method/reduce.py:7": 2, "method/reduce.py:9": 1, "deepspeed/utils.py:5": 1, asked: 1}
    assert modes == ["warn", "default"]


def test_more_than_one_wait_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "host_waits", lambda action, setting: Counter({"method/reduce.py:7": 2}))
    monkeypatch.setattr(speed, "Trainer", lambda *_: Mock())
    monkeypatch.setattr(speed, "scene", lambda *_: tiny_batch(0))
    found = Findings(tmp_path / "waits.json")
    speed.waits(HOST, found)
    assert len(found.problems) == 3 and "the host waits 2 times" in found.problems[0]
    assert found.problems[2].startswith("bfloat16, with a teacher: ")


def test_a_difference_is_found(tmp_path: Path) -> None:
    rows, start = torch.zeros(3), torch.zeros(4, dtype=torch.float64)
    host = numbers.Trained([{"loss/total": 2.0, "norm": 1.0}], start, start + 1, rows)
    cases = {
        "same": (host, "float64", []),
        "another loss": (replace(host, values=[{"loss/total": 2.001, "norm": 1.0}]), "float32", ["a term"]),
        "no number": (replace(host, values=[{"loss/total": float("nan"), "norm": 1.0}]), "float32", ["a term"]),
        "other parameters": (replace(host, after=start + 1 + 1e-6), "float64", ["the way of the parameters"]),
        "bf16 is printed": (replace(host, values=[{"loss/total": 2.1, "norm": 1.0}]), "bf16", []),
    }
    for name, (here, precision, wanted) in cases.items():
        found = Findings(tmp_path / f"{name}.json")
        numbers.compare(found, precision, here, host, numbers.LIMITS[precision])
        assert len(found.problems) == len(wanted), name
        assert all(text in problem for text, problem in zip(wanted, found.problems, strict=True)), name


def test_the_card_is_known_before_anything_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(speed.nccl, "version", Mock(side_effect=RuntimeError("no NCCL")))
    found = Findings(tmp_path / "found.json")
    with pytest.raises(RuntimeError, match="no NCCL"):
        speed.machine(Setting(DEVICE, tiny=True), found)
    assert found.facts["card"] == card.name


def test_a_network_predicts_compiled_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = list[torch.nn.Module]()

    def score_maps(network: torch.nn.Module, images: Any, size: tuple[int, int], **_: Any) -> Any:
        networks.append(network)
        return [(np.ones(size, np.float32), np.zeros(size, np.uint8))]

    monkeypatch.setattr(flow, "score_maps", score_maps)
    flow.predicting(HOST, Findings(tmp_path / "found.json"))
    compiled = [path for path, each in networks[-1].named_modules() if each._compiled_call_impl is not None]
    assert len(compiled) > 1 and "" not in compiled
    assert all(each._compiled_call_impl is None for each in networks[0].modules())


def test_a_batch_that_was_copied_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(batch: Batch) -> Batch:
        return replace(batch, label=batch.label + 1)

    setting = Setting(DEVICE, tiny=True)
    batches = [tiny_batch(step) for step in range(3)]
    with pretended_device():
        assert flow.copied_wrong(batches, setting) == 0
        right = CopiedAhead.__next__
        monkeypatch.setattr(CopiedAhead, "__next__", lambda ahead: changed(right(ahead)))
        assert flow.copied_wrong(batches, setting) == 3 * batches[0].label.numel()


# ------------------------------------------------------------------------------------------- the whole, on processors

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
{before}
import importlib.util
known = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {absent} else known(name, package)
from benchmarks.gpu.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def trial(out: Path, absent: set[str], *words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    program = WITHOUT.format(absent=absent, before=before)
    command = [sys.executable, "-c", program, "--device", "cpu", "--tiny", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, *words], capture_output=True, text=True, check=False, cwd=out, env=environment)


@pytest.mark.extended
@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:CUDA is not available, disabling CUDA profiling:UserWarning")
@pytest.mark.parametrize("name", ["machine", "agreement", "repetition", "norms", "waits", "throughput", "predicting"])
def test_a_section_runs_on_a_pretended_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    card = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=80 * 2**30, major=9, minor=0)
    pretended: dict[str, Any] = {
        "synchronize": lambda device=None: None,
        "max_memory_allocated": lambda device: 3 * 2**30,
        "reset_peak_memory_stats": lambda device: None,
        "set_sync_debug_mode": lambda mode: None,
        "get_device_name": lambda device=None: card.name,
        "get_device_properties": lambda device: card,
        "device_count": lambda: 1,
        "get_device_capability": lambda device=None: (9, 0),
    }
    for function, answer in pretended.items():
        monkeypatch.setattr(torch.cuda, function, answer)
    for module in (numbers, speed, flow):
        monkeypatch.setattr(module, "set_up", lambda device, switches: None)
    # On tensors of `meta`, which are those of the pretended device.
    monkeypatch.setattr(speed, "micro_batch_flops", lambda model, images, size: 10**9)
    jobs = {"throughput": partial(speed.throughput, HOST.small, compiled=False)}
    job = jobs.get(name) or next(getattr(m, name) for m in (numbers, speed, flow) if name in m.__all__)
    found = Findings(tmp_path / "found.json")
    with pretended_device():
        job(Setting(DEVICE, tiny=True), found)
    assert not found.problems
    if name == "machine":
        assert found.facts["card"] == card.name
    elif name == "throughput":
        (rows,) = found.tables.values()
        for row in rows:
            assert isinstance(row["TFLOP/s"], float) and row["peak GiB"] == 3
            assert row["MFU"] == pytest.approx(row["TFLOP/s"] / 989)
    elif name == "agreement":
        assert all(row["same rows in memory"] for row in found.tables.popitem()[1] if row["precision"] != "bf16")


BASE = {
    "ray", "mlflow", "webdataset", "deepspeed", "pydantic", "yaml", "typer", "rich", "matplotlib", "safetensors",
}  # fmt: skip
"""Of the framework's dependencies, those that a machine with a GPU need not have."""


@pytest.mark.extended
def test_little_has_to_be_installed(tmp_path: Path) -> None:
    ended = trial(tmp_path, BASE, "--only", "engine", "loading", "collectives")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    status = {section["title"]: (section["status"], section["reason"]) for section in found["sections"]}
    assert status["Machine"][0] == status["Collectives, one rank"][0] == "passed"
    assert status["Engine"] == ("skipped", "deepspeed is not installed")
    assert status["Loader"][0] == "skipped" and "pydantic" in status["Loader"][1]


OLDER_TORCH = """
import torch, torch.distributed as dist
del dist.all_gather_single, dist.reduce_scatter_single
newer = torch.compile
def older(model=None, *, dynamic=None, backend="inductor"):
    return newer(model, dynamic=dynamic, backend=backend)
torch.compile = older
"""
"""Missing in torch 2.11, of 2.14."""


@pytest.mark.extended
@pytest.mark.timeout(900)
def test_an_older_torch_and_a_deepspeed_alone_will_do(tmp_path: Path) -> None:
    wanted = ("collectives", "predicting", f"{HOST.small.backbone}-compiled", "engine", "engine-waits")
    ended = trial(tmp_path, {"hjson"}, "--only", *wanted, before=OLDER_TORCH)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    reasons = {section["title"]: section["reason"] for section in found["sections"] if section["status"] != "passed"}
    lacks = "deepspeed needs hjson, which is not installed"
    assert reasons == {"Engine": lacks, "Waits of the engine": lacks}


@pytest.mark.extended
@pytest.mark.timeout(900)
def test_every_section_runs_on_processors(tmp_path: Path) -> None:
    ended = trial(tmp_path, {"ray", "mlflow", "webdataset"}, "--budget", "800")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(found["sections"]) == 12 and {section["status"] for section in found["sections"]} == {"passed"}
    tables = {section["title"]: section["tables"] for section in found["sections"]}
    for mode in ("eager", "compiled"):
        (rows,) = tables[f"{HOST.small.backbone}, {mode}"].values()
        assert [row["model"] for row in rows] == ["full", "baseline"] and all(row["images/s"] > 0 for row in rows)
    assert all(
        row["equal after save and load"] for row in tables["Engine"][f"three steps of {HOST.small.backbone}, one rank"]
    )
    assert "# One GPU, checked: no GPU" in (tmp_path / "gpu.md").read_text()
