"""Configuration → streams: Datasets beside shards, the record of which data a run reads, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mgcda_dist import build
from mgcda_dist.checks import check_data
from mgcda_dist.choices import RunFile
from mgcda_dist.config.schema import Config
from mgcda_dist.data.inputs import read_inputs, write_inputs
from mgcda_dist.errors import ConfigError, ShardError
from mgcda_dist.runs.description import describe
from mgcda_dist.runs.folder import RunFolder
from tests.support.commands import typed
from tests.support.configs import plain_config, tiny_content, write_config

HERE = "python:tests.support.datasets"
DAY, NIGHT = "render_a/train", "real_day/train"


def stream(name: str = "d", made: str = "Frames", **changes: Any) -> dict[str, Any]:
    arguments = {"number": 6} if made in ("Frames", "Drawn", "frames") else {}
    content = {"name": name, "dataset": f"{HERE}:{made}", "dataset_arguments": arguments, "per_step": 1}
    return content | {"label_format": "road8"} | changes


def run_of(*streams: dict[str, Any], **sections: Any) -> Config:
    data = {"streams": list(streams), "loader_workers": 0} | sections.pop("data", {})
    return plain_config(data=data, mdat={"enabled": False}, optim={"steps": 4}, **sections)


def of_shards(shards: Path, folder: str, **changes: Any) -> dict[str, Any]:
    """A stream over a Dataset with the frames of a folder of shards."""
    return stream(changes.pop("name", "d"), "OfShards", dataset_arguments={"folder": str(shards / folder)}, **changes)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_dataset_gives_the_batches_of_its_shards(tiny_shards: Path, rank: int) -> None:
    """With objects, without labels, and with class mix, in two slices of the global batch."""
    paste = {"objects": f"{tiny_shards}/objects/train"}
    others = [{"labelled": True, "paste": paste, "per_step": 2}, {"labelled": False, "paste": paste, "per_step": 2}]
    names, mix = {"a": DAY, "b": NIGHT}, {"augment": {"class_mix": 0.7, "style": 0.5}}
    there = [{"name": n, "shards": f"{tiny_shards}/{f}"} | o for (n, f), o in zip(names.items(), others, strict=True)]
    own = [of_shards(tiny_shards, f, name=n) | o for (n, f), o in zip(names.items(), others, strict=True)]
    own[1]["label_format"] = None  # nobody looks at these labels
    batches = [list(build.training_stream(run_of(*streams, data=mix), rank, 2)) for streams in (there, own)]
    for shards, dataset in zip(*batches, strict=True):
        assert torch.equal(shards.image, dataset.image) and torch.equal(shards.label, dataset.label)
        assert torch.equal(shards.is_unlabelled, dataset.is_unlabelled)


def test_scenes_are_the_same_images_however_a_run_trains_on_them(tiny_shards: Path) -> None:
    paste = {"objects": f"{tiny_shards}/objects/train"}
    streams = [
        {"name": name, "shards": f"{tiny_shards}/{folder}", "per_step": 2, "labelled": labelled}
        for name, folder, labelled in (("a", DAY, True), ("b", NIGHT, False))
    ]
    mixed = [each | {"paste": paste} for each in streams]
    runs = [run_of(*mixed, data={"augment": {"class_mix": 1.0, "style": 1.0}}), run_of(*streams)]
    for given, plain in zip(*(build.scene_batches(run, 2) for run in runs), strict=True):
        assert torch.equal(given.image, plain.image) and torch.equal(given.label, plain.label)
    (trained,) = build.global_batches(runs[0], 1)
    assert not torch.equal(trained.image, next(build.scene_batches(runs[0], 1)).image)


@pytest.mark.parametrize(
    ("asked", "on_gpu", "is_pinned"),
    [(None, True, True), (None, False, False), (False, True, False), (True, False, True)],
)
def test_batches_for_a_gpu_are_page_locked(
    monkeypatch: pytest.MonkeyPatch, asked: bool | None, on_gpu: bool, is_pinned: bool
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    loader = build.training_stream(run_of(stream(), data={"pin_memory": asked}), 0, 1, on_gpu=on_gpu)
    assert loader._loader.pin_memory is is_pinned  # pyright: ignore[reportPrivateUsage]


def test_train_ids_need_no_label_format() -> None:
    (batch, *_) = build.training_stream(run_of(stream(label_format=None)), 0, 1)
    assert set(batch.label.unique().tolist()) <= {*range(8), 255}
    own = run_of(stream(label_format=None), data={"class_space": {"names": ["road", "rest"]}})
    with pytest.raises(ShardError, match=r"stream d: item \d: the label holds \d, which is not a train id"):
        next(iter(build.training_stream(own, 0, 1)))
    with pytest.raises(ValidationError, match="nothing is mapped to road, rest"):
        run_of(stream(), data={"class_space": {"names": ["road", "rest"]}})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dataset": None}, "shards: give either a folder of shards, or a Dataset"),
        ({"shards": "/s"}, "both are there"),
        ({"dataset": None, "shards": "/s"}, "dataset_arguments: is for `dataset`"),
        ({"dataset": None, "shards": "/s", "dataset_arguments": {}}, "label_format: is for `dataset`"),
        ({"dataset": "my.data:Frames"}, "should match pattern"),
    ],
)
def test_a_stream_has_one_source(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        run_of(stream(**changes))


def test_the_inputs_of_a_run_name_its_datasets(tmp_path: Path) -> None:
    (found,) = build.run_inputs(config := run_of(stream()))
    assert (found.key, found.dataset, found.samples) == ("train/d", "Frames", 6)
    assert found.folder == f"{HERE}:Frames" and len(found.digest) == 64
    write_inputs([found], tmp_path / "m.json")
    assert read_inputs(tmp_path / "m.json") == [found]
    assert "| train/d | d | Frames | 6 | 1 |" in " ".join(describe(config, [found]).split())


@pytest.mark.parametrize("changed", [{"number": 7}, {"number": 6, "seed": 1}, {"number": 6, "damaged": [0]}])
def test_a_run_does_not_go_on_with_another_dataset(tmp_path: Path, changed: dict[str, Any]) -> None:
    first = run_of(stream(), runs=str(tmp_path))
    run = RunFolder(first)
    run.prepare(first, inputs := build.run_inputs(first))
    write_inputs(inputs, run.manifests)
    (run.checkpoints / "step-00000005").mkdir()
    (run.checkpoints / "step-00000005" / Path(RunFile.COMMITTED).name).write_text("{}")
    run.prepare(first, build.run_inputs(first))
    other = run_of(stream(dataset_arguments=changed), runs=str(tmp_path))
    with pytest.raises(ConfigError, match=r"python:.*Frames: the items of train/d are not those the run started"):
        run.prepare(other, build.run_inputs(other))


def test_good_datasets_pass_the_check(tiny_shards: Path) -> None:
    paste = {"objects": f"{tiny_shards}/objects/train"}
    bare = stream("bare", labelled=False, label_format=None, dataset_arguments={"number": 5, "labelled": False})
    config = run_of(stream(paste=paste), bare | {"domain": "d"}, cacl={"unlabelled_confidence": 0.9})
    assert check_data(config, samples=True) == ([], [])


def test_domains_are_compared_where_nothing_counts_the_pixels_of_a_dataset(tiny_shards: Path) -> None:
    paste = {"objects": f"{tiny_shards}/objects/train", "probability": 0.5}
    other = stream("b", dataset_arguments={"number": 5})
    _, warnings = check_data(run_of(stream("a", paste=paste), other))
    assert len(warnings) == 1 and "anomalies are in domain a alone" in warnings[0]
    assert warnings[0].endswith("; the labels of a, b are not counted")
    _, warnings = check_data(run_of(stream("a", paste=paste), other | {"paste": paste | {"probability": 0.9}}))
    assert len(warnings) == 1 and "(a 50%, b 90%)" in warnings[0]
    _, warnings = check_data(run_of(stream("a", paste=paste), other | {"labelled": False, "label_format": None}))
    assert [text.partition(":")[0] for text in warnings] == [
        "anomalies are in domain a alone", "domain b gives CACL no pixel", "b",
    ]  # fmt: skip
    assert check_data(run_of(stream("a", paste=paste), other | {"paste": paste})) == ([], [])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"made": "Nothing"}, "stream d: tests.support.datasets has nothing called 'Nothing'"),
        ({"made": "Drawn"}, "stream d: item 0: differs when it is read a second time"),
        ({"made": "Endless"}, "stream d: .* without __len__"),
        ({"label_format": "cityscape_ids"}, "no label format 'cityscape_ids'"),
        ({"label_format": "binary"}, r"stream d: item 0: the label holds \d, which is not an id that binary knows"),
        ({"dataset_arguments": {"number": 0}}, "stream d: the Dataset holds no item"),
        ({"dataset_arguments": {"number": 3, "damaged": [2]}}, "stream d: item 2: OSError: cannot read frame 2"),
        ({"dataset_arguments": {"number": 3, "labelled": False}}, "item 0: it has no label, but the stream is"),
    ],
)
def test_datasets_that_do_not_fit_are_named(changes: dict[str, Any], says: str) -> None:
    config = run_of(stream(**changes))
    ((path, problem, remedy),), _ = check_data(config, samples=True)
    assert path == ("data", "streams", 0, "dataset") and remedy
    assert re.search(says, problem), problem


def test_sets_are_checked_as_streams_are() -> None:
    """Also the one that a model is chosen on, which no stream may train on."""
    entry = {key: value for key, value in stream().items() if key != "per_step"}
    other = entry | {"dataset_arguments": {"number": 5}}
    broken = entry | {"dataset_arguments": {"number": 5}, "label_format": "binary", "name": "e"}
    assert check_data(run_of(stream(), evaluation={"sets": [other]}), samples=True) == ([], [])
    _, warnings = check_data(run_of(stream(), evaluation={"sets": [entry]}))
    (warning,) = warnings
    assert warning.startswith("set d is what stream d trains on; leave it out, or measure on frames")
    ((path, problem, _),), _ = check_data(run_of(stream(), evaluation={"sets": [broken]}), samples=True)
    assert path == ("evaluation", "sets", 0, "dataset") and "set e: item 0: the label holds" in problem
    ((path, problem, _),), _ = check_data(run_of(stream(), checkpoint={"best": {"set": entry}}))
    assert path == ("checkpoint", "best", "set", "dataset") and "stream d trains on it" in problem


def test_two_domains_over_the_same_items_are_a_warning() -> None:
    _, warnings = check_data(run_of(stream("a"), stream("b", labelled=False)))
    assert warnings[:1] == [
        "domains a and b are the same items: only objects and labels tell them apart; give the streams a and b one "
        "`domain`"
    ]


def test_config_check_names_the_line(tmp_path: Path, tiny_shards: Path) -> None:
    content = tiny_content(tiny_shards)
    content["data"]["streams"][0] = stream("render_a", per_step=2) | {"paste": content["data"]["streams"][0]["paste"]}
    file = write_config(tmp_path / "run.yaml", content)
    done = typed("config", "check", file, "data.streams.0.label_format=binary")
    assert done.returncode == 2
    assert "data.streams.0.dataset: stream render_a: item 0: the label holds" in done.stderr
