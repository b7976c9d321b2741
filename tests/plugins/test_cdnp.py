"""cDNP against loops in float64: distances, the bank that is measured, the score, and a model with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mgcda_dist.errors import ConfigError
from mgcda_dist.inference.formats import as_program, largest_difference, write_onnx
from mgcda_dist.inference.model import load_exported
from mgcda_dist.method.batch import ANOMALY, VOID, Prediction
from mgcda_dist.models.heads import HeadSpec
from mgcda_dist.models.measured import Observation, with_measured_head
from mgcda_dist.models.networks import named_segmenter
from mgcda_dist.plugins import cdnp
from mgcda_dist.plugins.cdnp import CdnpScore, NeighbourBank
from tests.support.commands import invoke, refusal
from tests.support.exported import write_run

CHANNELS, CLASSES = 5, 4
HEAD_CLASS = "python:mgcda_dist.plugins.cdnp:NeighbourBank"
HEAD = f"{{name: neighbours, use: '{HEAD_CLASS}', stage: stride16, arguments: {{rows: 60}}}}"
SCORE = "python:mgcda_dist.plugins.cdnp:CdnpScore"


def _seen(number: int = 3) -> list[Observation]:
    random = torch.Generator().manual_seed(4)

    def made(*size: int) -> Tensor:
        return 3 + torch.randn(1, *size, generator=random, dtype=torch.float64)

    found: list[Observation] = []
    for _ in range(number):
        label = torch.from_numpy(np.random.default_rng(len(found)).choice([0, 1, ANOMALY, VOID], (1, 4, 6)))
        # Labels of four times the cells: each cell's centre lies within a block of one value.
        label = label.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
        logits = made(CLASSES, 4, 6)
        found.append(Observation(made(CHANNELS, 4, 6), Prediction(logits, {}, logits), label))
    return found


def _distance(cell: Tensor, bank: Tensor, number: int) -> float:
    return sum(sorted(math.dist(cell.tolist(), row) for row in bank.tolist())[:number]) / number


@pytest.mark.parametrize("block", [7, 8192])
def test_a_distance_is_the_mean_to_the_nearest_rows(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdnp, "_BLOCK", block)
    random = torch.Generator().manual_seed(1)
    rows = 2 + torch.randn(23, CHANNELS, generator=random, dtype=torch.float64)
    head = NeighbourBank(CHANNELS, 23, 3).double()
    head.centre, head.bank = rows.mean(dim=0), rows - rows.mean(dim=0)
    head.ranges = torch.tensor([-2.0, 4.0, 8.0], dtype=torch.float64)
    x = 2 + torch.randn(2, CHANNELS, 3, 4, generator=random, dtype=torch.float64)
    found = head(x)
    assert found.shape == (2, 3, 3, 4) and torch.all(found[:, 1] == -2) and torch.all(found[:, 2] == 4)
    for n, i, j in np.ndindex(2, 3, 4):
        assert float(found[n, 0, i, j]) == pytest.approx(_distance(x[n, :, i, j], rows, 3) / 8, rel=1e-9)


def test_the_keys_of_attention_are_a_stage_of_a_transformer() -> None:
    stages = {"block5": "backbone[3]", "attention": "backbone.model.blocks.5.attn.qkv"}
    network = named_segmenter("timm:test_vit", num_classes=3, norm="group", taps={"stages": stages}).eval()
    image, label = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8), torch.zeros(1, 64, 96).long()
    label[:, :, 48:] = VOID
    spec: HeadSpec = {"use": HEAD_CLASS, "stage": "attention", "arguments": {"rows": 12, "neighbours": 1, "keys": True}}
    headed, specs = with_measured_head(network, "neighbours", spec, lambda: [(image, label)], "head")
    assert specs["neighbours"].get("arguments") == {"rows": 12, "neighbours": 1, "keys": True}
    prediction = network(image)
    width = prediction.stages["block5"].shape[1]
    assert prediction.stages["attention"].shape == (1, 3 * width, 4, 6)
    keys = prediction.stages["attention"][0, width : 2 * width]
    bank, distance = keys[:, :, :3].flatten(1).T, headed(image).extra["neighbours"][0, 0]
    nearest = torch.cdist(keys.flatten(1).T, bank).amin(dim=1).view(4, 6)
    assert distance[:, :3].abs().max() < 1e-3
    assert torch.allclose(distance[:, 3:] / distance[0, 5], nearest[:, 3:] / nearest[0, 5], rtol=1e-3)
    with pytest.raises(ConfigError, match=r"head\.arguments\.keys: the stage has 64 channels, which are no queries"):
        with_measured_head(network, "neighbours", {**spec, "stage": "block5"}, lambda: [(image, label)], "head")


@pytest.mark.parametrize("rows", [10, 1000])
def test_a_bank_is_of_cells_that_are_neither_void_nor_anomalous(rows: int) -> None:
    seen = _seen()
    head = NeighbourBank.measured(CHANNELS, lambda: iter(seen), rows=rows)
    known = [
        (each.features[0, :, i, j], 1 - float(torch.logsumexp(each.prediction.logits[0, :, i, j], 0)))
        for each in seen
        for i, j in np.ndindex(4, 6)
        if int(each.label[0, 4 * i, 4 * j]) in (0, 1)
    ]
    bank = (head.bank + head.centre).double()
    assert head.arguments == {"rows": min(rows, len(known)), "neighbours": 3} and len(bank) == min(rows, len(known))
    cells = torch.stack([cell for cell, _ in known])
    assert float(torch.cdist(bank, cells).amin(dim=1).max()) < 1e-5 and len(bank.unique(dim=0)) == len(bank)
    energies = [energy for _, energy in known]
    expected = [min(energies), max(energies) - min(energies), max(_distance(cell, bank, 3) for cell, _ in known)]
    assert head.ranges.tolist() == pytest.approx(expected, rel=1e-4)
    again = NeighbourBank.measured(CHANNELS, lambda: iter(seen), rows=rows)
    assert all(torch.equal(x, again.state_dict()[key]) for key, x in head.state_dict().items())


def test_the_score_is_what_its_formula_says() -> None:
    logits = torch.randn(2, CLASSES, 3, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ranges = torch.tensor([0.3, -1.5, 2.5], dtype=torch.float64).view(1, 3, 1, 1).expand(2, 3, 3, 4)
    found = CdnpScore()(Prediction(logits, {}, logits, {"neighbours": ranges}))
    for n, i, j in np.ndindex(2, 3, 4):
        energy = 1 - math.log(sum(math.exp(float(x)) for x in logits[n, :, i, j]))
        assert float(found[n, i, j]) == pytest.approx((energy + 1.5) / 2.5 + 0.3, rel=1e-12)


def test_frames_without_cells_and_impossible_numbers_are_refused() -> None:
    void = [each._replace(label=torch.full_like(each.label, VOID)) for each in _seen()]

    def observe() -> Iterator[Observation]:
        return iter(void)

    with pytest.raises(ConfigError, match="0 cells of the frames are neither void nor anomalous"):
        NeighbourBank.measured(CHANNELS, observe)
    for arguments, says in (({"rows": 2}, "rows: is 2\n.*at least 3"), ({"neighbours": 0}, "neighbours: is 0")):
        with pytest.raises(ConfigError, match=says):
            NeighbourBank.measured(CHANNELS, observe, **arguments)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> tuple[Path, Path, str]:
    """A run, the model with a bank that was made of it, and the shards."""
    folder, shards = tmp_path_factory.mktemp("cdnp"), f"{tiny_shards}/render_a/train"
    run = write_run(folder / "run")
    given = ("--data", shards, "--max-frames", 2, "--head", HEAD, "--score", SCORE, "--out", folder / "bank")
    told = invoke("calibrate", run, *given, "--device", "cpu")
    assert told.exit_code == 0 and "has the head neighbours (rows" in told.output, told.output
    return run, folder / "bank", shards


def test_a_model_with_a_bank_is_loaded_strictly_and_scores_with_it(measured: tuple[Path, Path, str]) -> None:
    run, out, shards = measured
    plain, model = load_exported(run), load_exported(out)
    more = set(model.network.state_dict()) - {f"segmenter.{key}" for key in plain.network.state_dict()}
    assert more == {f"heads.heads.neighbours.{name}" for name in ("bank", "centre", "ranges")}
    origin = (model.metadata.measured_heads or {})["neighbours"]
    assert model.score == SCORE and origin["frames"] == 2 and origin["manifest_digest"]
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    score, _ = model.predict(image)
    ((energy, _),) = plain.predict_batch([image], score="energy")
    assert score.shape == energy.shape and np.isfinite(score).all() and score.std() > 0
    assert not np.allclose(np.corrcoef(score.ravel(), energy.ravel())[0, 1], 1, atol=1e-3)
    done = invoke("evaluate", out, "--data", shards, "--max-frames", 1)
    assert done.exit_code == 0, done.output


def test_a_model_without_a_bank_says_what_to_do(measured: tuple[Path, Path, str]) -> None:
    run, out, shards = measured
    image = np.zeros((40, 60, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"reads extra\['neighbours'\][\s\S]*first: `mgcda calibrate` with a head"):
        load_exported(run).predict_batch([image], score=SCORE)
    common = ("--data", shards, "--score", SCORE, "--out", out.with_name("other"))
    for head, says in (
        ("{name: neighbours, use: pixelwise}", "is trained, not measured"),
        (HEAD.replace("stride16", "stride15"), "no stage 'stride15'"),
        (HEAD.replace("rows: 60", "rows: 1"), "head.arguments.rows: is 1"),
        (HEAD.replace("rows: 60", "row: 60"), "unexpected keyword argument 'row'"),
        (HEAD.replace("name: neighbours", "name: others"), "reads extra"),
        ("[]", "is no mapping"),
    ):
        assert says in str(refusal("calibrate", run, *common, "--head", head, "--max-frames", 1))
    assert "--out: is missing" in str(refusal("calibrate", run, "--data", shards, "--head", HEAD, "--score", SCORE))
    assert "has a head 'neighbours'" in str(refusal("calibrate", out, *common, "--head", HEAD))
    assert not out.with_name("other").exists()


@pytest.mark.extended
def test_the_bank_is_a_part_of_graphs(measured: tuple[Path, Path, str], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    model = load_exported(measured[1])
    write_onnx(as_program(model), tmp_path / "model.onnx")
    assert largest_difference(model, tmp_path / "model.onnx") < 1e-3
