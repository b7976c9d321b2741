"""docs/callbacks.md: its callback and its configuration do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import mgcda_dist
from mgcda_dist import build
from mgcda_dist.callbacks import HOOKS, StopTraining
from tests.support.configs import merged, plain_config

PAGE = (Path(mgcda_dist.__file__).parents[1] / "docs/callbacks.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_callback_of_the_page_stops_a_run_that_gets_no_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = (text for kind, text in BLOCKS if kind == "python")
    named, *_ = (yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml")
    (tmp_path / re.findall(r"# (\w+\.py)", code)[0]).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    config = plain_config(**named)
    build.check_callbacks(config)
    (patience,) = build.callbacks(config)
    said: list[str] = []
    context: Any = SimpleNamespace(say=said.append)
    assert [*build.methods_of(patience)] == ["on_validation", "on_checkpoint"]
    for step, value in enumerate((0.1, 0.3, 0.2, 0.3)):
        patience.on_validation(context, step, {"validation/val/ap": value})
    with pytest.raises(StopTraining, match="no better validation/val/ap for 3 validations"):
        patience.on_validation(context, 4, {"validation/val/ap": 0.0})
    patience.on_checkpoint(context, 4, Path("step-00000004"))
    assert said == ["step-00000004 is written"]


def test_every_method_is_in_the_table() -> None:
    assert re.findall(r"^\| `(on_\w+)\(", PAGE, re.MULTILINE) == [*HOOKS]


def test_the_configuration_of_the_trackers_is_one() -> None:
    *_, trackers = (yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml")
    tracking = merged({}, trackers)["tracking"]
    config = plain_config(tracking=tracking).tracking
    assert config.tensorboard and config.wandb is not None and config.wandb.mode == "offline"
