"""Shards that do not fit the run are named before it starts; classes of one's own reach the network."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from mgcda_dist import build
from mgcda_dist.checks import check_data, check_model
from mgcda_dist.config.load import load_config
from mgcda_dist.config.run import EvaluationSetConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.data.folders import label_pixels, open_shards
from mgcda_dist.data.paste import PasteSource
from mgcda_dist.data.shards.sources import SOURCES
from mgcda_dist.data.shards.write import write_shards
from mgcda_dist.errors import ConfigError, MgcdaError
from mgcda_dist.method.batch import ANOMALY, INLIER, VOID
from tests.support.commands import typed
from tests.support.configs import plain_config, plain_content, write_config

OWN = {"names": ["path", "grass", "tool"], "ids": {"own_yard": {0: "path", 3: "grass", 7: "tool", 9: "normal"}}}


def yard(folder: Path, label_format: str = "own_yard", ids: tuple[int, ...] = (0, 3, 7, 9, 255)) -> Path:
    """Frames of somebody's yard, with ids of their own, as shards."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for i in range(6):
        image = np.random.default_rng(i).integers(0, 255, (8, 10, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), cv2.resize(image, (80, 64)))
        label = np.array(ids, np.uint8).repeat(16)[:, None].repeat(80, 1)
        cv2.imwrite(str(folder / "labels" / f"{i}.png"), cv2.resize(label, (80, 64), interpolation=cv2.INTER_NEAREST))
    opened = SOURCES["plain"].open(folder, "train", label_format=label_format)
    write_shards(opened.samples, folder / "shards", dataset="yard", split="train", label_format=opened.label_format)
    return folder / "shards"


def config(folder: Path, domains: dict[str, Any], **data: Any) -> Config:
    """A configuration over those domains."""
    data = {
        "class_space": OWN,
        "crop_px": [48, 64],
        "streams": [{"name": name, "per_step": 1, **domain} for name, domain in domains.items()],
        "loader_workers": 0,
    } | data
    content = plain_content(
        data=data,
        model={"backbone": "test_resnet.r160_in1k", "decoder_channels": 16},
        mdat={"enabled": len(domains) > 1},
        cacl={"projection_dim": 16, "queue_rows": 0},
        optim={"steps": 2},
    )
    return load_config(write_config(folder / "t.yaml", content)).config


def test_user_defined_classes_reach_the_network_and_its_metadata(tmp_path: Path) -> None:
    run = config(tmp_path, {"yard": {"shards": str(yard(tmp_path / "yard"))}})
    assert run.data.class_names == ("path", "grass", "tool")
    shards = run.data.streams[0].shards
    assert shards is not None
    pixels = label_pixels(open_shards(shards, "frames"), build.class_space(run.data))
    assert pixels.keys() == {0, 1, 2, INLIER, VOID}
    (batch, *_) = build.training_stream(run, 0, 1)
    assert set(np.unique(batch.label.numpy())) <= pixels.keys()
    model = build.mgcda(run)
    assert model.train()(batch, 0.0).loss.isfinite()
    assert model.segmenter(batch.image).logits.shape[1] == 3
    build.save_model(run, model.segmenter, tmp_path / "model")
    assert build.load_model(tmp_path / "model")[0] == run


def test_a_known_class_space_mapped_to_a_user_defined_one(tmp_path: Path, tiny_shards: Path) -> None:
    space = {
        "names": ["flat", "car", "rest"],
        "based_on": "road8",
        "map": {"road": "flat", "pavement": "flat", "vehicle": "car", "sky": "void", "person": "normal"}
        | dict.fromkeys(["building", "vegetation", "pole_sign"], "rest"),
        "road": ["flat"],
    }
    paste = {"objects": str(tiny_shards / "objects" / "train"), "placement": "road", "scale": [0.2, 0.3]}
    domains = {"a": {"shards": str(tiny_shards / "render_a" / "train"), "paste": paste}}
    run = config(tmp_path, domains, class_space=space)
    bare = config(tmp_path, {"a": domains["a"] | {"paste": None}}, class_space=space)
    for pasted, batch in zip(build.training_stream(run, 0, 1), build.training_stream(bare, 0, 1), strict=True):
        anomaly = (pasted.label == ANOMALY).numpy()[0]
        assert set(np.unique(batch.label.numpy())) <= {0, 1, 2, INLIER, VOID}
        foot = np.flatnonzero(anomaly.any(axis=1)).max()
        assert anomaly.any() and (batch.label.numpy()[0, foot - 3 : foot + 4] == 0).any(), "objects stand on `flat`"
    entry = EvaluationSetConfig(name="e", shards=str(tiny_shards / "real_day" / "test"))
    frames = build.evaluation_frames(entry, run.data)
    assert set(np.unique(frames[0].label)) <= {0, 1, 2, INLIER, ANOMALY, VOID}


def test_unmapped_ids_are_refused(tmp_path: Path) -> None:
    shards = str(yard(tmp_path / "yard", ids=(0, 3, 7, 9, 12)))
    run = config(tmp_path, {"yard": {"shards": shards}})
    ((path, problem, remedy),), _ = check_data(run)
    assert path == ("data", "streams", 0, "shards") and "own_yard does not know: 12" in problem and "% of" in problem
    assert "data.class_space.ids.own_yard" in remedy
    with pytest.raises(ConfigError, match="does not know: 12"):
        build.training_stream(run, 0, 1)
    assert check_data(config(tmp_path, {"yard": {"shards": shards, "labelled": False},
                                        "b": {"shards": str(yard(tmp_path / "b"))}}))[0] == []  # fmt: skip


@pytest.mark.parametrize(
    ("form", "space", "says"),
    [
        ("own", "idd7", "idd7 does not know labels of format own"),
        ("own_b", OWN, "nothing says which class the ids of own_b are"),
        ("camvid", OWN, "nothing says which class the ids of camvid are"),
    ],
)
def test_labels_that_the_class_space_cannot_read(tmp_path: Path, form: str, space: Any, says: str) -> None:
    run = config(tmp_path, {"yard": {"shards": str(yard(tmp_path / "yard", form))}}, class_space=space)
    assert [says in problem for _, problem, _ in check_data(run)[0]] == [True]


@pytest.mark.parametrize(("label_format", "named"), [("binary", True), ("binary_0_255", False)])
def test_masks_of_0_and_255_are_a_warning(tmp_path: Path, label_format: str, named: bool) -> None:
    shards = yard(tmp_path / "yard", label_format, (0, 255))
    _, warnings = check_data(config(tmp_path, {"yard": {"shards": str(shards)}}, class_space="road8"))
    assert any("only the ids 0 and 255 occur" in warning for warning in warnings) == named


def test_stray_ids_of_a_known_format_can_be_explained(tmp_path: Path) -> None:
    shards = str(yard(tmp_path / "yard", "camvid", ids=(0, 3, 8, 77)))
    run = config(tmp_path, {"yard": {"shards": shards}}, class_space="idd7")
    assert "camvid does not know: 77" in check_data(run)[0][0].problem
    names = ["drivable", "non_drivable", "living_thing", "vehicle", "roadside_object", "far_object", "sky"]
    explained = {"names": names, "based_on": "idd7", "ids": {"camvid": {77: "void"}}}
    assert check_data(config(tmp_path, {"yard": {"shards": shards}}, class_space=explained))[0] == []


def test_objects_are_chosen_by_category(tmp_path: Path, tiny_shards: Path) -> None:
    objects = tiny_shards / "objects" / "train"
    counts = Counter(name.decode() for name in open_shards(str(objects), "objects").shard_index(0)["category"].tolist())
    one, *others = sorted(counts)

    def pasting(**choice: Any) -> Config:
        domain = {"shards": str(tiny_shards / "render_a" / "train"), "paste": {"objects": str(objects), **choice}}
        return config(tmp_path, {"a": domain}, class_space="road8")

    rest = sum(counts.values()) - counts[one]
    for choice, expected in (({"include": [one]}, counts[one]), ({"exclude": [one]}, rest),
                             ({"include": [one, others[0]], "exclude": others[:1]}, counts[one])):  # fmt: skip
        run = pasting(**choice)
        assert check_data(run, samples=True)[0] == []
        (source,) = build.training_stream(run, 0, 1).stream.sources
        assert isinstance(source.paste, PasteSource) and len(source.paste.objects) == expected
    for choice, says in (({"include": ["unicorn"]}, "no object of category 'unicorn'"),
                         ({"include": [one], "exclude": [one]}, "no object is left to paste")):  # fmt: skip
        assert says in check_data(pasting(**choice))[0][0].problem


def test_objects_that_cannot_be_pasted_are_named_with_their_key(tmp_path: Path, tiny_shards: Path) -> None:
    """… and what is wrong with the shards of the same stream is told, too."""
    frames, objects = (str(tiny_shards / name / "train") for name in ("render_a", "objects"))
    key = ("data", "streams", 0, "paste", "objects")
    for paste, says in (
        ({"objects": objects, "include": ["unicorn"]}, "no object of category 'unicorn'"),
        ({"objects": frames}, "holds frames, but pasting reads objects"),
    ):
        for shards, keys in ((frames, [key]), (objects, [key, (*key[:3], "shards")])):
            problems, _ = check_data(config(tmp_path, {"a": {"shards": shards, "paste": paste}}, class_space="road8"))
            assert [each.path for each in problems] == keys and says in problems[0].problem


def test_a_term_that_cannot_learn_is_a_warning(tmp_path: Path, tiny_shards: Path) -> None:
    render, real = (str(tiny_shards / name / "train") for name in ("render_a", "real_day"))
    objects = str(tiny_shards / "objects" / "train")
    domains = {"a": {"shards": render}, "b": {"shards": real, "labelled": False}}
    problems, warnings = check_data(config(tmp_path, domains, class_space="road8"), samples=True)
    assert problems == []
    assert "the outlier term and CACL will learn nothing from anomalies" in warnings[0]
    pasting = {"a": {"shards": render, "paste": {"objects": objects}}}
    assert check_data(config(tmp_path, pasting, class_space="road8"), samples=True) == ([], [])
    _, warnings = check_data(config(tmp_path, pasting, class_space="cityscapes19"))
    assert len(warnings) == 1 and "no labelled stream shows wall, fence" in warnings[0]
    run = config(tmp_path, pasting, class_space="road8")
    sets = [{"name": "e", "shards": render}, {"name": "f", "shards": str(yard(tmp_path / "y", "binary", (0, 1)))}]
    run = Config.model_validate(run.model_dump() | {"evaluation": {"sets": sets}})
    problems, (warning,) = check_data(run)
    assert problems == [] and warning.startswith("set e is what stream a trains on; leave it out, or measure on")


def test_labels_without_a_class_are_a_warning_with_its_remedy(tmp_path: Path) -> None:
    """As those of a test set, which are of anomalies and of the rest."""
    masks = yard(tmp_path / "masks", "binary", (0, 1))
    problems, warnings = check_data(config(tmp_path, {"test": {"shards": str(masks)}}, class_space="road8"))
    assert problems == [] and warnings[0].startswith("stream test: no pixel of its labels is of any class, so none")
    assert "set labelled: false on it, or use shards" in warnings[0]


def test_objects_that_are_trained_on_are_a_warning_where_they_are_measured(tmp_path: Path, tiny_shards: Path) -> None:
    objects, day = str(tiny_shards / "objects" / "train"), str(tiny_shards / "real_day" / "val")
    counts = open_shards(objects, "objects").shard_index(0)["category"].tolist()
    one, other, *_ = sorted({name.decode() for name in counts})
    stream = {"shards": str(tiny_shards / "render_a" / "train"), "paste": {"objects": objects, "include": [one]}}
    plain = config(tmp_path, {"a": stream}, class_space="road8").model_dump()

    def said(folder: str, **choice: Any) -> list[str]:
        paste = {"objects": str(tiny_shards / "objects" / folder), **choice}
        entry = {"name": "e", "shards": day, "paste": paste}
        as_set = check_data(Config.model_validate(plain | {"evaluation": {"sets": [entry]}}))
        assert as_set == check_data(Config.model_validate(plain | {"checkpoint": {"best": {"set": entry}}}))
        assert as_set[0] == []
        return as_set[1]

    for seen in ({}, {"include": [one, other]}):
        (warning,) = said("train", **seen)
        assert warning.startswith(
            "set e pastes objects that a trains on: none of them is unseen; paste those of another"
        )
    assert said("train", include=[other]) == said("train", probability=0) == said("val") == []


_PASTE = {"probability": 0.5}
_BARE = {"labelled": False}
_OUTLIER = {"enabled": True, "outlier_weight": 0.1}
_BARE_PASTED = {"a": {"paste": _PASTE}, "b": {"paste": _PASTE} | _BARE}
_NO_INLIER = "domain b gives CACL anomalies and no inlier.* set cacl.unlabelled_confidence, or teacher.enabled and"
_NO_NORMAL = r"^b: objects are pasted onto frames without labels, and nothing says .* teacher.outlier_weight"
_UNREAD = r"^b: no term of the loss reads these frames, 1 of 2 images a step"
_NO_CACL = {"cacl": {"enabled": False}}
_ALONE = _NO_CACL | {"mdat": {"enabled": False}}


@pytest.mark.parametrize(
    ("streams", "method", "says"),
    [
        ({"a": {"paste": _PASTE}, "b": {}}, {}, ["anomalies are in domain a alone"]),
        ({"a": {"paste": _PASTE}, "b": {"paste": {"probability": 0.9}}}, {}, [r"anomalies \(a 50%, b 90%\)"]),
        ({"a": {"paste": _PASTE}, "b": {"paste": _PASTE}}, {}, []),
        ({"a": {"paste": _PASTE}, "b": {"paste": _PASTE}}, {"teacher": {"enabled": True}}, ["no image to label"]),
        ({"a": {"paste": _PASTE}, "b": {"paste": _PASTE}}, {"teacher": {"enabled": True, "weight": 0}}, []),
        (_BARE_PASTED, {"teacher": {"enabled": True}}, [_NO_INLIER, _NO_NORMAL]),
        (
            {"a": {"paste": _PASTE}, "b": {"paste": _PASTE}},
            {"data": {"augment": {"class_mix": 0.5}}},
            ["data.augment.class_mix: all streams are labelled"],
        ),
        (_BARE_PASTED, {"data": {"augment": {"class_mix": 0.5}}}, [_NO_INLIER, _NO_NORMAL]),
        (_BARE_PASTED, {"teacher": _OUTLIER}, [_NO_INLIER]),
        (_BARE_PASTED, {"teacher": _OUTLIER | {"contrast": True}}, []),
        (_BARE_PASTED, {"teacher": {"outlier_weight": 1}}, [_NO_INLIER, _NO_NORMAL]),
        (_BARE_PASTED, {"cacl": {"unlabelled_confidence": 0.9}}, []),
        (_BARE_PASTED | {"b2": {"of": "b", "domain": "b", "paste": _PASTE}}, {}, []),
        (
            _BARE_PASTED,
            {"teacher": _OUTLIER | {"weight": 0}, **_NO_CACL},
            [_NO_NORMAL, "teacher.outlier_weight: it is multiplied by teacher.weight"],
        ),
        *(
            (
                _BARE_PASTED,
                {"teacher": _OUTLIER, "loss": {"outlier": kind}, "model": {"score": "entropy"}, **_NO_CACL},
                [f"loss.outlier={kind} has no side .* one of energy_hinge, rba_hinge"],
            )
            for kind in ("entropy", "abstention", "none")
        ),
        (_BARE_PASTED, {}, [_NO_INLIER, _NO_NORMAL]),
        ({"a": {"paste": {"probability": 1}}, "a2": {"domain": "a"} | _BARE, "b": {"paste": _PASTE}}, {}, []),
        ({"a": {"paste": _PASTE}, "b": _BARE}, {}, ["anomalies are in domain a alone", "domain b gives CACL no pixel"]),
        ({"a": {"paste": _PASTE}, "b": _BARE}, {"cacl": {"enabled": False}}, ["anomalies are in domain a alone"]),
        ({"a": {"paste": _PASTE}, "b": _BARE}, {"cacl": {"unlabelled_confidence": 0.9}}, ["anomalies are in"]),
        ({"a": {"paste": _PASTE}, "b": _BARE}, {"teacher": {"enabled": True, "contrast": True}}, ["anomalies are in"]),
        ({"a": {"paste": _PASTE}, "b": {}}, {"cacl": {"enabled": False}, "mdat": {"enabled": False}}, []),
        (_BARE_PASTED, _ALONE, [_NO_NORMAL]),
        (_BARE_PASTED, _ALONE | {"teacher": {"enabled": True}}, [_NO_NORMAL]),
        (_BARE_PASTED, _ALONE | {"teacher": {"enabled": True}, "loss": {"outlier": "entropy"}}, []),
        (_BARE_PASTED, _ALONE | {"loss": {"outlier": "none"}}, [_UNREAD]),
        ({"a": {"paste": _PASTE}, "b": _BARE}, _ALONE, [_UNREAD]),
        *(
            ({"a": {"paste": _PASTE}, "b": _BARE}, _ALONE | reads, [])
            for reads in (
                {"teacher": {"enabled": True}},
                {"data": {"augment": {"class_mix": 0.5}}},
                {"data": {"augment": {"style": 0.5}}},
            )
        ),
        ({"a": {"paste": _PASTE}, "b": {"of": "a", "paste": _PASTE}}, {}, ["domains a and b are the same shards"]),
        (
            {"a": {"paste": _PASTE}, "a2": {"of": "a", "domain": "a"}, "b": {"paste": _PASTE}},
            {},
            ["differ in"],
        ),
    ],
)
def test_domains_that_cannot_be_aligned_are_a_warning(
    tmp_path: Path, tiny_shards: Path, streams: dict[str, Any], method: dict[str, Any], says: list[str]
) -> None:
    places = {"a": "render_a/train", "b": "render_b/train", "a2": "real_day/train"}
    content = {}
    for name, stream in streams.items():
        content[name] = dict(stream) | {"shards": str(tiny_shards / places[stream.get("of", name)])}
        content[name].pop("of", None)
        if "paste" in stream:
            content[name]["paste"] = stream["paste"] | {"objects": str(tiny_shards / "objects" / "train")}
    run = config(tmp_path, content, class_space="road8").model_dump()
    for section, values in method.items():
        run[section] |= values
    problems, warnings = check_data(Config.model_validate(run))
    assert problems == [] and len(warnings) == len(says), warnings
    assert all(re.search(text, warning) for text, warning in zip(says, warnings, strict=True)), warnings


def _cut(folder: Path) -> None:
    os.truncate(folder / "shard-000000.tar", 700)


def _other_size(folder: Path) -> None:
    """The first sample's label becomes that of a smaller image."""
    index = np.load(folder / "shard-000000.idx.npy")
    small = cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()
    assert len(small) <= index["label_bytes"][0]
    index["label_bytes"][0] = len(small)
    with (folder / "shard-000000.tar").open("r+b") as tar:
        tar.seek(int(index["label_offset"][0]))
        tar.write(small)
    np.save(folder / "shard-000000.idx.npy", index)


def _unlabelled(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | {"label_histogram": {}}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_cut, "the shard ends"),
        (_other_size, "the label is 4×4 px, the image 80×64"),
        (_unlabelled, "stream yard is labelled, but its shards hold no labels"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not readable"),
    ],
)
def test_shards_that_cannot_be_read_are_named_with_their_key(
    tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    shards = yard(tmp_path / "yard")
    run = config(tmp_path, {"yard": {"shards": str(shards)}, "twin": {"shards": str(shards), "labelled": False}})
    damage(shards)
    problems, _ = check_data(run, samples=True)
    assert problems[0].path == ("data", "streams", 0, "shards") and says in problems[0].problem


def test_config_check_names_every_problem_at_once(tmp_path: Path) -> None:
    shards = [str(yard(tmp_path / name, form)) for name, form in (("a", "own_a"), ("b", "own_b"))]
    config(tmp_path, {"a": {"shards": shards[0]}, "b": {"shards": shards[1]}})

    def check(*changes: str) -> tuple[int, str]:
        done = typed("config", "check", tmp_path / "t.yaml", *changes)
        return done.returncode, done.stderr

    code, said = check()
    assert code == 2 and all(f"data.streams.{i}" in said and f"own_{'ab'[i]} are" in said for i in (0, 1))
    code, said = check("data.streams.0.shards=/nowhere/a", "data.streams.1.shards=/nowhere/b")
    assert code == 2 and "'/nowhere/a'" in said and "'/nowhere/b'" in said
    every = {"names": ["path", "rest"], "ids": {"own_a": dict.fromkeys((0, 3, 7, 9), "path"),
                                                "own_b": dict.fromkeys((0, 3, 7, 9), "rest")}}  # fmt: skip
    code, said = check("data.class_space={}", f"data.class_space={json.dumps(every)}")  # in place of the file's
    assert code == 0 and said.startswith("warning: no anomaly in training")


def test_rows_of_a_sweep_with_one_warning_are_told_together(tmp_path: Path) -> None:
    config(tmp_path, {"yard": {"shards": str(yard(tmp_path / "yard"))}})
    rows = {"one": "t.yaml", "two": {"config": "t.yaml", "set": {"cacl.weight": 0}}}
    sweep = write_config(tmp_path / "s.yaml", {"rows": rows})
    done = typed("config", "check", sweep)
    first, second = done.stderr.splitlines()
    assert done.returncode == 0 and first.startswith("warning: one, two: no anomaly in training")
    assert second.startswith("warning: two: cacl.weight: it is 0")


@pytest.mark.parametrize(
    ("shards", "says"), [("real_day/test", "is a test split"), ("render_a/train", "stream a trains on it")]
)
def test_no_model_is_chosen_on_test_or_training_frames(
    tmp_path: Path, tiny_shards: Path, shards: str, says: str
) -> None:
    plain = config(tmp_path, {"a": {"shards": f"{tiny_shards}/render_a/train"}}, class_space="road8")
    best = {"set": {"name": "chosen_on", "shards": f"{tiny_shards}/{shards}"}}
    problems, _ = check_data(Config.model_validate(plain.model_dump() | {"checkpoint": {"best": best}}))
    assert [problem.path for problem in problems] == [("checkpoint", "best", "set", "shards")]
    assert says in problems[0].problem and "no model can be chosen on chosen_on" in problems[0].problem
    best["set"]["shards"] = f"{tiny_shards}/real_day/val"
    assert check_data(Config.model_validate(plain.model_dump() | {"checkpoint": {"best": best}}))[0] == []


@pytest.mark.parametrize("labelled", [True, False])
def test_training_on_a_test_split_is_doubtful(tmp_path: Path, tiny_shards: Path, labelled: bool) -> None:
    for split, doubtful in (("test", True), ("val", False)):
        stream = {"shards": f"{tiny_shards}/real_day/{split}", "labelled": labelled}
        seen = config(tmp_path, {"a": {"shards": f"{tiny_shards}/render_a/train"}, "b": stream}, class_space="road8")
        assert any("stream b: " in text and "is a test split" in text for text in check_data(seen)[1]) == doubtful


@pytest.mark.parametrize(
    "name",
    ["test_resnet", "vit_tiny_patch16_224", "resnet5", "resnet18.no_such_tag", "convmixer_768_32", "mixer_s32_224",
     "inception_v4", "levit_128", "crossvit_9_240", "segformer", "transformers:segformer", "nvidia/segformer-b0",
     "ResNet18", "道路"],
)  # fmt: skip
def test_a_backbone_is_refused_where_the_builder_refuses_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = plain_config(model={"backbone": name, "norm": "group"}, mdat={"stages": [{"name": "stride16"}]})
    problems: list[str] = []
    for make in (build.segmenter, check_model):
        try:
            made = make(asked)
            assert make is check_model or isinstance(made, nn.Module)
            problems.append("")
        except ConfigError as error:
            problems.append(error.where + error.problem.partition(":")[0])
    assert problems[0] == problems[1]
    assert (problems[0] == "") == (name in ("test_resnet", "vit_tiny_patch16_224"))


def test_the_check_of_a_backbone_reads_no_weights(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"not read")
    check_model(plain_config(model={"backbone": "test_resnet", "weights": f"file:{tmp_path}/w.pth"}))
    with pytest.raises(ConfigError, match=r"mdat.stages: 'vit_tiny_patch16_224' has no stage 'stride4'"):
        check_model(plain_config(model={"backbone": "vit_tiny_patch16_224"}, mdat={"stages": [{"name": "stride4"}]}))


@pytest.mark.parametrize(
    "model",
    [
        {"backbone": "test_resnet", "norm": "sync"},
        {"backbone": None, "network": "smp:unet", "arguments": {"encoder_name": "tu-test_resnet"}, "norm": "sync"},
        {"backbone": None, "network": "smp:unet", "arguments": {"encoder_name": "resnet18"}, "head_norm": "sync"},
    ],
)
def test_synchronised_norms_are_checked_built_and_loaded_without_a_gpu(model: dict[str, Any], tmp_path: Path) -> None:
    """The machine that starts a run, or evaluates its model, often has none."""
    asked = plain_config(model=model, mdat={"enabled": False}, scaling={"gpus_per_worker": 1})
    check_model(asked)
    network = build.segmenter(asked).eval()
    assert any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
    build.save_model(asked, network, tmp_path)
    _, loaded = build.load_model(tmp_path)
    image = torch.randint(0, 256, (2, 3, 128, 192), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded(image).logits, network(image).logits)
    key = "norm" if "norm" in model else "head_norm"
    with pytest.raises(ConfigError, match=rf"model\.{key}: 'sync' trains on GPUs only[\s\S]*gpus_per_worker=1"):
        check_model(plain_config(model=model, mdat={"enabled": False}))


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_whose_package_is_missing_is_refused_with_the_way_to_get_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    asked: dict[str, Any] = {"tensorboard": {"tensorboard": True}, "wandb": {"wandb": {}}}
    with pytest.raises(MgcdaError, match=rf"tracking\.{name}: {name} is not installed") as error:
        check_model(plain_config(model={"backbone": "test_resnet.r160_in1k"}, tracking=asked[name]))
    assert f"'.[{name}]'" in error.value.remedy


def test_a_callback_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.0: tests\.support\.callbacks has nothing called 'Absent'"):
        check_model(plain_config(callbacks=["python:tests.support.callbacks:Absent"]))
