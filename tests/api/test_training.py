"""Training from a program: what is refused before workers start, and the place that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.api.configuration import load_config
from mgcda_dist.api.training import train
from mgcda_dist.errors import ConfigError
from tests.support.configs import tiny_content, write_config


def _stream(name: str, shards: Path | str) -> dict[str, Any]:
    return {"name": name, "shards": str(shards), "per_step": 4}


def test_a_problem_of_the_data_names_file_and_line(tiny_shards: Path, tmp_path: Path):
    content = tiny_content(tiny_shards, runs=str(tmp_path / "runs"))
    content["data"]["streams"][1]["shards"] = "nowhere"
    file = write_config(tmp_path / "bad.yaml", content)
    (line,) = [i for i, text in enumerate(file.read_text().splitlines(), 1) if "nowhere" in text]
    of_file = rf"^{re.escape(str(file))}:{line}: data\.streams\.1\.shards: no shards in"
    several: list[dict[str, Any]] = [{}, {"optim": {"steps": 3}}, {"data": {"crop_px": [32, 32]}}]
    for changes in several:
        with pytest.raises(ConfigError, match=of_file):
            train(file, **changes)
    for given in (content, load_config(file)):
        with pytest.raises(ConfigError, match=r"^configuration: data\.streams\.1\.shards: no shards in"):
            train(given)
    good = write_config(tmp_path / "good.yaml", tiny_content(tiny_shards, runs=str(tmp_path / "runs")))
    streams = [_stream("a", tiny_shards / "render_a/train"), _stream("b", "nowhere")]
    with pytest.raises(ConfigError, match=r"^configuration: data\.streams\.1\.shards: no shards in"):
        train(good, data={"streams": streams})  # no line of the file: the program has given it
