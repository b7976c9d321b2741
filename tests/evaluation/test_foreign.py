"""Functions, modules and ONNX files are evaluated like a model of this package, or refused with the reason."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from mgcda_dist.api.evaluation import evaluate
from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.evaluation.foreign import GivenScore, open_foreign
from mgcda_dist.evaluation.input_range import InputRange
from mgcda_dist.evaluation.results import EvaluationResults
from mgcda_dist.evaluation.test_time import TestTimeAugmentation, score_map
from tests.support.commands import refusal, typed

_CODE = """
import numpy as np
import torch

def redness(image):
    return image[..., 0].astype(np.float32) - image.mean(axis=2)

def with_classes(image):
    return redness(image), (image[..., 0] > 127).astype(np.int64) * 7

def as_tensors(image: torch.Tensor) -> torch.Tensor:
    image = image.float() / 255
    return torch.cat([image[:, :1] - image.mean(1, keepdim=True), image[:, 1:]], dim=1)

class Net(torch.nn.Module):
    def forward(self, image):
        return as_tensors(image)

def make():
    return Net()

def scalar(image):
    return float(image.mean())

def broken(image):
    raise RuntimeError("out of luck")

def beyond(image):
    return redness(image), np.full(image.shape[:2], 8)

def not_finite(image):
    return redness(image) / 0

NUMBER = 3

def saturated(image):
    return 1 - np.exp2(-30.0 - image[..., 0] / 16)

def saturated_with_classes(image):
    return saturated(image), image[..., 0] // 32

class FirstLogit:
    reads = ()
    def maps(self, prediction):
        return prediction.logits
    def of(self, maps):
        return maps[:, 0]
    def __call__(self, prediction):
        return self.of(prediction.logits)
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mine.py").write_text(_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return "python:mine"


@pytest.fixture(scope="module")
def shards(tiny_shards: Path) -> Path:
    return tiny_shards / "real_day/test"


def _numbers(subject: Any, shards: Path, **options: Any) -> dict[str, float]:
    (row,) = evaluate(subject, shards, max_frames=2, kept_frames=0, **options).sets.values()
    return row.metrics


def _graph(path: Path, *, of: str = "float", size: tuple[Any, Any] = ("h", "w"), outputs: str = "logits") -> Path:
    """Logits (R - mean/3…) as a 1×1 convolution of the image, or its first channel as `score` and class 0."""
    kinds = {"float": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}
    image = helper.make_tensor_value_info("image", kinds[of], ["n", 3, *size])
    weight = np.array([[2, -1, -1], [0, 3, 0], [0, 0, 3]], np.float32).reshape(3, 3, 1, 1) / 3
    constants = [helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.ravel().tolist())]
    nodes = [helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("Conv", ["x", "weight"], ["logits"])]
    found = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3, "a", "b"])]
    if outputs == "score":
        constants += [helper.make_tensor("first", TensorProto.INT64, [], [0])]
        nodes += [helper.make_node("Gather", ["logits", "first"], ["score"], axis=1)]
        nodes += [helper.make_node("Sub", ["score", "score"], ["zero"])]
        nodes += [helper.make_node("Cast", ["zero"], ["classes"], to=TensorProto.UINT8)]
        found = [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", "a", "b"]),
            helper.make_tensor_value_info("classes", TensorProto.UINT8, ["n", "a", "b"]),
        ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [image], found, constants),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    onnx.save(model, path)
    return path


def test_the_same_scores_in_every_form_have_the_same_numbers(code: str, shards: Path, tmp_path: Path) -> None:
    import mine  # pyright: ignore[reportMissingImports]

    expected = _numbers(f"{code}:redness", shards)
    assert {"ap", "auroc", "fpr95"} <= expected.keys() and "miou" not in expected
    first = {"score": f"{code}:FirstLogit"}
    in_memory = evaluate(mine.redness, shards, max_frames=2, kept_frames=0)
    forms = {
        "object": next(iter(in_memory.sets.values())).metrics,
        "tensors": _numbers(f"{code}:as_tensors", shards, **first),
        "class": _numbers(f"{code}:Net", shards, **first),
        "factory": _numbers(f"{code}:make", shards, **first),
        "module": _numbers(mine.Net(), shards, **first),
        "onnx": _numbers(_graph(tmp_path / "f.onnx"), shards, input_range="0-1", **first),
        "uint8 onnx": _numbers(str(_graph(tmp_path / "u.onnx", of="uint8")), shards, score=mine.FirstLogit),
        "scores onnx": _numbers(_graph(tmp_path / "s.onnx", of="uint8", outputs="score"), shards),
    }
    for form, found in forms.items():
        assert found == pytest.approx(expected, abs=2e-3), form
    assert sorted(path.name for path in tmp_path.glob("*-evaluation")) == [
        "Net-evaluation", "as_tensors-evaluation", "f-evaluation", "make-evaluation", "redness-evaluation",
        "s-evaluation", "u-evaluation",
    ]  # fmt: skip


def test_the_record_says_what_was_evaluated(code: str, shards: Path, tmp_path: Path) -> None:
    graph = _graph(tmp_path / "their.onnx")
    by_function = evaluate(f"{code}:with_classes", shards, max_frames=1, class_space="road8", name="red")
    subject = by_function.subject
    assert (subject.kind, subject.source) == ("python", f"{code}:with_classes")
    assert subject.digest == hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()
    assert by_function.settings.score == "as given" and subject.class_space == "road8"
    assert "miou" in next(iter(by_function.sets.values())).metrics
    by_graph = evaluate(graph, shards, max_frames=1, score="max_logit", input_range="imagenet", flip=True)
    assert (by_graph.subject.kind, by_graph.subject.source) == ("onnx", "their.onnx")
    assert by_graph.subject.digest == hashlib.sha256(graph.read_bytes()).hexdigest()
    network = by_graph.settings.network
    assert network is not None and (network.input_range, network.augmentation.flip) == ("imagenet", True)
    assert EvaluationResults.load(tmp_path / "their-evaluation") == by_graph
    again = evaluate(graph, shards, max_frames=1, score="max_logit", input_range="0-1", flip=True)
    assert again.evaluation_id != by_graph.evaluation_id


def test_scores_of_a_function_are_averaged_over_views_and_windows(code: str) -> None:
    """A score of each pixel by itself is the same in every window and mirror image."""
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    function = open_foreign(f"{code}:with_classes", num_classes=8)
    how = TestTimeAugmentation(flip=True, window_px=(32, 64), window_overlap=0.5)
    scores, classes = score_map(function, image, (64, 96), score=GivenScore(), augmentation=how)
    assert scores == pytest.approx(image[..., 0] - image.mean(axis=2), abs=1e-3)
    assert np.array_equal(classes, (image[..., 0] > 127) * 7)


@pytest.mark.parametrize("how", [TestTimeAugmentation(), TestTimeAugmentation((0.5, 1.0), True, (32, 64), 0.5)])
@pytest.mark.parametrize("blur", [False, True])
@pytest.mark.parametrize("num_classes", [0, 8])
def test_scores_in_float64_keep_their_bits(code: str, how: TestTimeAugmentation, blur: bool, num_classes: int) -> None:
    """As score maps from files do: all of these are 1 in float32."""
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    name = "saturated_with_classes" if num_classes else "saturated"
    function = open_foreign(f"{code}:{name}", num_classes=num_classes)
    scores, _ = score_map(function, image, (64, 96), score=GivenScore(), augmentation=how, blur=blur)
    expected = 1 - np.exp2(-30.0 - image[..., 0] / 16)
    assert scores.dtype == np.float64 and len(np.unique(scores)) >= 256
    if how == TestTimeAugmentation() and not blur:
        assert np.array_equal(scores, expected)


def test_the_command_takes_them_beside_each_other(code: str, shards: Path, tmp_path: Path) -> None:
    graph = _graph(tmp_path / "their.onnx")
    done = typed(
        "evaluate", f"theirs={graph}", f"{code}:as_tensors", "--data", shards, "--max-frames", "1", "--out", "out",
        "--score", f"{code}:FirstLogit", "--input-range", "0-255",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "theirs" in done.stdout and "as_tensors" in done.stdout
    assert (tmp_path / "out/theirs/results.json").is_file() and (tmp_path / "out/results.md").is_file()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("missing", {}, "has nothing called 'missing'"),
        ("NUMBER", {}, "is a int, which cannot be called"),
        ("scalar", {}, r"returns \(\) float64 for an image of|returns a float for an image of"),
        ("broken", {}, "RuntimeError: out of luck .*mine.py"),
        ("not_finite", {}, "NaN|infinite|finite"),
        ("redness", {"score": "energy"}, "gives scores, and no logits"),
        ("redness", {"class_space": "road8"}, "gives scores without classes"),
        ("beyond", {"class_space": "road8"}, "gives classes 8 to 8"),
        ("redness", {"input_range": "0-1"}, "takes uint8 images"),
        ("as_tensors", {"class_space": "road8"}, "gives logits of 3 channels, and `class_space` has 8 classes"),
        ("as_tensors", {"input_range": "0-2"}, "'0-2' is no range of an input"),
        ("as_tensors", {"score": "standardized_max_logit"}, "needs class statistics"),
        ("as_tensors", {"score": "python:mine:nothing"}, "nothing called 'nothing'"),
        ("as_tensors", {"score": "plugin:nothing"}, "no installed package registers"),
    ],
)
def test_a_function_that_cannot_be_evaluated(code: str, name: str, options: Any, message: str, shards: Path) -> None:
    with pytest.raises(MgcdaError, match=message):
        evaluate(f"{code}:{name}", shards, max_frames=1, **options)


@pytest.mark.parametrize(
    ("graph", "options", "message"),
    [
        ({}, {}, "floating point, and nothing says of which range"),
        ({"of": "uint8"}, {"input_range": "0-1"}, "its input is uint8"),
        ({"of": "int64"}, {}, r"its input is image n×3×h×w tensor\(int64\)"),
        ({"size": (16, 16)}, {"input_range": "0-1"}, "takes n×3×16×16 only"),
        ({"of": "uint8", "outputs": "score"}, {"score": "energy"}, "gives scores, and no logits"),
        ({"of": "uint8"}, {"class_space": "idd7"}, "gives logits of 3 channels"),
    ],
)
def test_a_graph_that_cannot_be_evaluated(graph: Any, options: Any, message: str, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(_graph(tmp_path / "g.onnx", **graph), shards, max_frames=1, **options)


def test_files_that_are_no_subjects_are_named(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = _graph(tmp_path / "graph.onnx")
    with pytest.raises(ConfigError, match=r"no such file\n.*did you mean .*graph.onnx"):
        evaluate(tmp_path / "grahp.onnx", shards)
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ConfigError, match="onnxruntime cannot load it"):
        evaluate(tmp_path / "text.onnx", shards)
    with pytest.raises(ConfigError, match="names no sets"):
        evaluate(graph, input_range="0-1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MgcdaError, match="holds no score map"):
        evaluate(tmp_path / "empty", shards)
    assert "class_space: is of functions" in str(refusal("evaluate", "x", "--data", shards, "--class-space", "road8"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MgcdaError, match=r"onnxruntime is not installed\n.*\[onnx\]"):
        evaluate(graph, shards, input_range="0-1")


def test_a_range_is_a_name_or_mean_and_deviation() -> None:
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert InputRange.of("0-255").applied(image).flatten().tolist() == [0, 51, 255]
    assert InputRange.of("0-1").applied(image).flatten().tolist() == pytest.approx([0, 0.2, 1])
    found = InputRange.of("0.5,0.2,0.5/1,0.5,0.25").applied(image).flatten().tolist()
    assert found == pytest.approx([-0.5, 0, 2], abs=1e-6)
    given = InputRange.of("0.485,0.456,0.406/0.229,0.224,0.225")
    assert given == InputRange.of("imagenet")


def test_a_module_of_another_score_than_its_outputs_is_refused(shards: Path) -> None:
    from mgcda_dist.models.scores import Outputs

    class Sides(Outputs):
        reads = ("sides",)

        def of(self, maps: torch.Tensor) -> torch.Tensor:
            return self.split(maps, 1)[1][:, 0]

    with pytest.raises(ConfigError, match=r"gives no extra\['sides'\]"):
        evaluate(nn.Conv2d(3, 4, 1), shards, max_frames=1, score=Sides, input_range="0-1")
