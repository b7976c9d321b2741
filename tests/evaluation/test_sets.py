"""Evaluation sets of a Dataset: the frames and the numbers of the same frames in shards, and the record of which."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mgcda_dist import build
from mgcda_dist.config.schema import Config
from mgcda_dist.data.pixels import InputSize
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.write import write_shards
from mgcda_dist.errors import ConfigError, MgcdaError, SampleError, ShardError
from mgcda_dist.evaluation.job import EvaluationJob, run_job
from mgcda_dist.evaluation.sets import EvaluationSet, evaluation_frames, set_data
from mgcda_dist.method.collectives import Collectives
from tests.support.configs import tiny_config
from tests.support.datasets import ITEMS
from tests.support.shards import encoded, frame

HERE = "python:tests.support.datasets"


def config_of(folder: Path, demo: Path, **entry: Any) -> Config:
    """The tiny run with one evaluation set."""
    return tiny_config(folder, demo, f"evaluation.sets={json.dumps([{'name': 'unseen'} | entry])}")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> tuple[Config, Config]:
    """One set over shards, and over a Dataset of the same frames, both with objects."""
    folder, place = tmp_path_factory.mktemp("sets"), f"{tiny_shards}/real_day/test"
    how: dict[str, Any] = {"paste": {"objects": f"{tiny_shards}/objects/val"}, "max_frames": 2}
    own = {"dataset": f"{HERE}:OfShards", "dataset_arguments": {"folder": place}, "label_format": "road8"}
    return config_of(folder, tiny_shards, shards=place, **how), config_of(folder, tiny_shards, **own, **how)


def test_the_frames_are_those_of_the_shards(both: tuple[Config, Config]) -> None:
    shards, own = (build.evaluation_frames(c.evaluation.sets[0], c.data, size=InputSize(32)) for c in both)
    assert len(own) == len(shards) == 2 and own.keys == ["000000", "000001"]
    for index in range(2):
        assert own[index].key == own.keys[index]
        np.testing.assert_array_equal(own[index].image, shards[index].image)
        np.testing.assert_array_equal(own[index].label, shards[index].label)


def test_the_numbers_are_those_of_the_shards(both: tuple[Config, Config]) -> None:
    found = []
    for config in both:
        job = replace(build.evaluation_job(config, Path("none")), panel_frames=0, kept_frames=0, digest="0" * 64)
        assert EvaluationJob.of_json(json.loads(json.dumps(job.as_json()))) == job
        torch.manual_seed(0)
        network = build.segmenter(config).eval()
        done = run_job(job, Collectives(), torch.device("cpu"), network=network)
        row = done.record().sets["unseen"].as_json()
        found.append({key: row[key] for key in ("ap", "auroc", "fpr95", "miou", "frames", "pixels")})
    assert found[0] == found[1] and found[0]["frames"] == 2


def test_the_record_says_which_data_it_was(both: tuple[Config, Config], tmp_path: Path, tiny_shards: Path) -> None:
    def data(number: int) -> Any:
        config = config_of(tmp_path, tiny_shards, dataset=f"{HERE}:Frames", dataset_arguments={"number": number})
        return set_data(build.evaluation_job(config, tmp_path).sets[0])

    assert data(5) == data(5) != data(6) and data(5).dataset == "Frames" and len(data(5).manifest_digest) == 64
    inputs = {each.key: each for each in build.run_inputs(both[1])}
    assert inputs["eval/unseen"].folder == f"{HERE}:OfShards" and "eval_paste/unseen" in inputs


def test_ids_that_mean_nothing_and_changing_items_are_refused(tmp_path: Path, tiny_shards: Path) -> None:
    arguments = {"number": 2}
    config = config_of(
        tmp_path, tiny_shards, dataset=f"{HERE}:Frames", dataset_arguments=arguments, label_format="binary"
    )
    with pytest.raises(SampleError, match=r"set unseen: item 0: the label holds \d, which is not an id that binary"):
        build.evaluation_frames(config.evaluation.sets[0], config.data)[0]
    config = config_of(tmp_path, tiny_shards, dataset=f"{HERE}:Drawn", dataset_arguments=arguments)
    with pytest.raises(ShardError, match="set unseen: item 0: differs when it is read a second time"):
        set_data(build.evaluation_job(config, tmp_path).sets[0])


@pytest.mark.parametrize("class_space", [None, "cityscapes19"])
def test_ids_that_the_labels_format_does_not_list_are_refused(tmp_path: Path, class_space: str | None) -> None:
    """They would be void, without a word, and the numbers those of the other pixels."""
    label = np.zeros((40, 60), np.uint8)
    label[:4], label[9:12] = 1, 2
    samples = [SourceSample("a", encoded(frame(0, 40, 60)[0]), "png", encoded(label))]
    write_shards(samples, tmp_path / "s", dataset="plain", split="test", label_format="binary", workers=1)
    with pytest.raises(ConfigError, match=r"7.50% of the labels' pixels have ids that binary does not know: 2"):
        evaluation_frames(EvaluationSet("s", str(tmp_path / "s")), class_space)


def test_a_whole_frame_may_be_given_to_a_network(tmp_path: Path, tiny_shards: Path) -> None:
    """torch warns of arrays that cannot be written to, as the Dataset's own are here."""
    config = config_of(tmp_path, tiny_shards, dataset=f"{HERE}:ITEMS", label_format="road8")
    image = build.evaluation_frames(config.evaluation.sets[0], config.data)[0].image
    assert torch.as_tensor(image).shape == (60, 80, 3) and image is not ITEMS[0][0]


def test_a_submission_needs_the_names_of_shards(both: tuple[Config, Config], tmp_path: Path) -> None:
    job = replace(build.evaluation_job(both[1], tmp_path), submission=("smiyc", str(tmp_path)), digest="0" * 64)
    with pytest.raises(MgcdaError, match="set unseen: its frames come from a Dataset, and have no names"):
        run_job(job, Collectives(), torch.device("cpu"), network=build.segmenter(both[1]).eval())
