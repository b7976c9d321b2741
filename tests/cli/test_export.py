"""`mgcda export`: each file alone gives the network's scores, and a failed export leaves no files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import Result

from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.foreign import GivenScore, open_foreign
from mgcda_dist.evaluation.test_time import score_map
from mgcda_dist.inference import export, formats, proof
from mgcda_dist.inference.card import model_card
from mgcda_dist.inference.formats import as_program, program_output, write_onnx, write_program
from mgcda_dist.inference.model import load_exported
from mgcda_dist.models.exported import bare_segmenter
from mgcda_dist.models.scores import scorer
from tests.support.commands import invoke, refusal, run_without
from tests.support.exported import write_run

_TORCH_ALONE = """
import numpy as np, torch
score, classes = torch.export.load(sys.argv[1]).module()(torch.from_numpy(np.load(sys.argv[2])))
np.save(sys.argv[3], score.numpy())
"""


BARE = ("--format", "safetensors", "--no-verify")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "tiny")
    (folder / "config.yaml").write_text("name: tiny\n")
    numbers = {"ap": 0.5, "auroc": 0.75, "fpr95": 0.25, "miou": None, "frames": 3}
    results = {"convention": "pooled", "score": "energy", "height_px": 32, "sets": {"unseen": numbers},
               "subject": {"digest": load_exported(folder).digest}}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> tuple[Path, Result]:
    pytest.importorskip("onnxscript", reason="needs the extra `onnx`")
    out = run.parent / "exported"
    with pytest.MonkeyPatch.context() as patched:
        # On the busy machine of a test run, time proves nothing.
        patched.setattr(proof, "_LATENCY_TOLERANCE", float("inf"))
        return out, invoke("export", run, out, "--format", "safetensors,torch,onnx", "--size", "64x96")


def test_half_weights_give_nearly_the_same_scores(run: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    assert invoke("export", run, whole, *BARE).exit_code == 0
    assert invoke("export", run, half, *BARE, "--half").exit_code == 0
    stored = load_file(half / "model.safetensors")
    # Rounded are the weights; what norm layers hold, and numbers that are counts, stay as they are.
    for name, tensor in load_file(whole / "model.safetensors").items():
        rounded = tensor.dim() > 1
        assert stored[name].dtype == (torch.float16 if rounded else tensor.dtype), name
        assert torch.equal(stored[name], tensor.half() if rounded else tensor), name
    model, other = load_exported(whole), load_exported(half)
    assert {each.dtype for each in other.network.parameters()} == {torch.float32}
    image = np.ascontiguousarray(_image()[0].transpose(1, 2, 0))
    assert other.predict(image)[0] == pytest.approx(model.predict(image)[0], abs=0.01)
    assert not np.array_equal(other.predict(image)[0], model.predict(image)[0])
    card = (half / "README.md").read_text(encoding="utf-8")
    assert f"SHA-256 `{other.digest}`, rounded to float16 from `{model.digest}`" in card
    check = export.verify_export(other, model, [], (64, 96))[-1]
    assert check.passed and check.found.startswith("float16: logits differ by")
    # What is not rounded must be the same bit for bit.
    tensors = load_file(whole / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.dim() > 1)
    tensors[name] *= 1.0001
    save_file(tensors, whole / "model.safetensors")
    assert not export.verify_export(load_exported(whole), load_exported(run), [], (64, 96))[-1].passed


def test_a_weight_beyond_float16_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "large")
    tensors = load_file(tmp_path / "large" / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.dim() > 1)
    tensors[name][0] = 1e6
    save_file(tensors, tmp_path / "large" / "model.safetensors")
    assert f"float16 cannot hold {name}" in str(
        refusal("export", tmp_path / "large", tmp_path / "out", *BARE, "--half")
    )
    assert not (tmp_path / "out").exists()


def _image() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (2, 3, 45, 61)).astype(np.uint8)


@pytest.mark.slow
def test_every_file_gives_the_network_s_scores(exported: tuple[Path, Result], run: Path) -> None:
    out, result = exported
    assert result.exit_code == 0, result.output
    names = {"README.md", "model.json", "model.onnx", "model.pt2", "model.safetensors"}
    assert {path.name for path in out.iterdir()} == names
    model = load_exported(run)
    assert load_exported(out).digest == model.digest
    image = _image()
    assert not torch.export.load(out / "model.pt2").module()(torch.from_numpy(image))[0].requires_grad
    for name in ("model.pt2", "model.onnx"):
        score, classes = program_output(out / name)(image)
        for index in range(len(image)):
            expected, predicted = model.predict(np.ascontiguousarray(image[index].transpose(1, 2, 0)), height_px=0)
            assert score[index] == pytest.approx(expected, abs=1e-4)
            assert (classes[index] == predicted).mean() > 0.999
    # Evaluated as a file of anybody's, it gives the model's scores, and classes where they are wanted.
    graph, pixels = (
        open_foreign(str(out / "model.onnx"), num_classes=8),
        np.ascontiguousarray(image[0].transpose(1, 2, 0)),
    )
    score, classes = score_map(graph, pixels, pixels.shape[:2], score=GivenScore())
    expected, predicted = model.predict(pixels, height_px=0)
    assert score == pytest.approx(expected, abs=1e-4) and (classes == predicted).mean() > 0.999
    # The proof: every line of it holds.
    assert "NO" not in result.output and result.output.count("│ ok │") == 8


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.extended
def test_an_efficientnet_is_traced_in_seconds(tmp_path: Path) -> None:
    """With `same` padding computed from symbolic sizes tracing took more than five minutes."""
    model = load_exported(write_run(tmp_path / "lite", backbone="tf_efficientnet_lite0"))
    before = model.predict(np.ascontiguousarray(_image()[0].transpose(1, 2, 0)), height_px=0)[0]
    write_program(as_program(model), tmp_path / "model.pt2")
    score, _ = program_output(tmp_path / "model.pt2")(_image())
    assert score[0] == pytest.approx(before, abs=1e-4)


@pytest.mark.slow
def test_the_graph_needs_only_torch(exported: tuple[Path, Result], tmp_path: Path) -> None:
    out, _ = exported
    np.save(tmp_path / "image.npy", _image())
    files = (out / "model.pt2", tmp_path / "image.npy", tmp_path / "score.npy")
    run_without(("mgcda_dist", "timm", "torchvision"), _TORCH_ALONE, *files)
    assert np.load(tmp_path / "score.npy") == pytest.approx(program_output(out / "model.onnx")(_image())[0], abs=1e-4)


@pytest.mark.slow
def test_the_card_has_training_results_and_use(exported: tuple[Path, Result]) -> None:
    card = (exported[0] / "README.md").read_text()
    for text in ("# tiny", "test_resnet.r160_in1k", "| unseen | 3 | 50.00 | 25.00 | 75.00 |", "convention `pooled`",
                 "torch.export.load", "InferenceSession", load_exported(exported[0]).digest):  # fmt: skip
        assert text in card


def test_the_card_of_a_checkpoint_has_no_results_of_the_last_step(run: Path, tmp_path: Path) -> None:
    checkpoint = write_run(tmp_path / "seed", decoder_channels=8) / "model"
    folder = run / "checkpoints" / "step-00000300" / "model"
    shutil.copytree(checkpoint, folder)
    assert invoke("export", folder, tmp_path / "out", *BARE).exit_code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Checkpoint after 300 of 1 steps" in card and "## Results" not in card
    assert invoke("export", run, tmp_path / "last", *BARE).exit_code == 0
    assert "## Results" in (tmp_path / "last" / "README.md").read_text()


@pytest.mark.slow
def test_an_export_is_only_replaced_with_overwrite(exported: tuple[Path, Result], run: Path) -> None:
    out, _ = exported
    assert "exists already" in str(refusal("export", run, out, *BARE))
    assert (out / "model.onnx").is_file()
    copy = out.with_name("again")
    assert invoke("export", out, copy, *BARE).exit_code == 0
    assert invoke("export", run, copy, *BARE, "--overwrite").exit_code == 0
    assert {path.name for path in copy.iterdir()} == {"README.md", "model.json", "model.safetensors"}


def test_the_card_of_a_python_network_names_its_module(run: Path) -> None:
    model = load_exported(run)
    assert "# needs torch, timm and pydantic" in model_card(model, ["model.safetensors"], None)
    model.metadata.config["model"]["network"] = "python:my.nets:make"
    assert "MGCDA_TRUST_CODE=my.nets" in model_card(model, ["model.safetensors"], None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.pt2", "model.onnx"])
def test_a_graph_for_one_size_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    """Traced with fixed sizes, as happens for some networks."""
    if name == "model.onnx":
        pytest.importorskip("onnxscript", reason="needs the extra `onnx`")
    model, path = load_exported(run), tmp_path / name
    program = torch.export.export(
        formats.ScoreNetwork(model.network, scorer(model.score), 4).eval(),
        (torch.zeros(2, 3, 70, 90, dtype=torch.uint8),),
    )
    (write_onnx if name == "model.onnx" else write_program)(program, path)
    with pytest.raises(MgcdaError, match="does not take images of every size") as error:
        formats.largest_difference(model, path)
    assert len(str(error.value).splitlines()) == 2 and "`formats`" in error.value.remedy


@pytest.mark.slow
@pytest.mark.extended
def test_graphs_of_one_size_are_for_that_size_alone(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = invoke("export", run, out, "--format", "torch", "--no-verify", "--graph-size", "45x61")
    assert said.exit_code == 0, said.output
    model, image = load_exported(out), _image()
    assert model.metadata.graph_px == (45, 61) and '"graph_px": [\n' in (out / "model.json").read_text()
    assert formats.largest_difference(model, out / "model.pt2") < 1e-4
    with pytest.raises(Exception, match="45"):
        program_output(out / "model.pt2")(image[:, :, :40])
    card = (out / "README.md").read_text()
    assert "any N, H = 45, W = 61" in card and "graphs take images of 45×61 alone" in card
    # The next export is of any size again: the size belongs to the graphs, not to the model.
    assert invoke("export", out, tmp_path / "next", *BARE).exit_code == 0
    assert load_exported(tmp_path / "next").metadata.graph_px is None


def test_a_size_of_graphs_without_graphs_is_refused(run: Path, tmp_path: Path) -> None:
    refused = refusal("export", run, tmp_path / "none", *BARE, "--graph-size", "45x61")
    assert "graph_px: is the size of graphs" in str(refused)
    assert "is no size" in str(refusal("export", run, tmp_path / "none", "--graph-size", "45"))


def test_additional_tensors_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "tiny") / "model"
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"cacl.queue": tensors["mean"].clone()}, folder / "model.safetensors")
    assert "cacl.queue" in str(refusal("export", folder, tmp_path / "out"))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.extended
def test_the_comparison_detects_another_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = load_exported(write_run(tmp_path / "tiny"))
    assert all(check.passed for check in proof.compare_with_baseline(model, (32, 32)) if check.name != "latency")
    wider: dict[str, Any] = {"decoder_channels": 24}
    monkeypatch.setattr(proof, "bare_segmenter", lambda **given: bare_segmenter(**{**given, **wider}))
    failed = {check.name for check in proof.compare_with_baseline(model, (32, 32)) if not check.passed}
    assert {"parameters", "FLOPs"} <= failed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--format", "safetensor"], "did you mean safetensors"),
        (["--size", "big"], "no size"),
        (["--size", "0x64"], "no size"),
        (["--overwrite"], "no exported model"),  # a folder of somebody's
    ],
)
def test_invalid_options_are_refused_and_other_files_kept(
    run: Path, tmp_path: Path, words: list[str], says: str
) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    assert says in str(refusal("export", run, tmp_path, *words))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_card_says_that_weights_are_an_average(run: Path) -> None:
    model = load_exported(run)
    config = model.metadata.config
    assert "average over training" not in model_card(model, ["model.safetensors"], None)
    config["teacher"]["decay"], config["model"]["export"] = 0.99, "ema"
    assert "The weights are an average over training, of decay 0.99." in model_card(model, ["model.safetensors"], None)
    del config["teacher"], config["model"]["export"]  # as earlier versions wrote it
    assert "average over training" not in model_card(model, ["model.safetensors"], None)
