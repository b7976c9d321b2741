"""The model card of a model of others: its words are text in Markdown, and its records lie in its run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mgcda_dist.errors import MgcdaError
from mgcda_dist.inference.card import model_card
from mgcda_dist.inference.model import load_exported
from tests.support.exported import write_run

HOSTILE = "<script>alert(1)</script>![a](http://127.0.0.1:9/a.png)`|"


def test_words_of_others_are_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "net")
    file = run / "model/model.json"
    content = json.loads(file.read_text())
    content["name"], content["class_names"] = HOSTILE, [HOSTILE, *content["class_names"][1:]]
    content["config"]["model"] |= {"weights": HOSTILE, "backbone": HOSTILE}
    content["config"]["data"]["streams"][0]["name"] = HOSTILE
    file.write_text(json.dumps(content))
    (run / "provenance.json").write_text(json.dumps({"mlflow.source.git.commit": HOSTILE, "mgcda.version": HOSTILE}))
    facts = {"dataset": HOSTILE, "split": HOSTILE, "samples": 1, "shards": 1, "digest": HOSTILE, "folder": "/"}
    (run / "manifests.json").write_text(json.dumps({f"train/{HOSTILE}": facts}))
    card = model_card(load_exported(run), ["model.safetensors"], run)
    assert "<script>" not in card.replace("\\<", "") and "](http" not in card


def test_a_configuration_of_no_run_is_an_error(tmp_path: Path) -> None:
    run = write_run(tmp_path / "net")
    file = run / "model/model.json"
    for config in ({}, {"model": []}, {"model": {}, "data": {"streams": 3}}):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"config": config}))
        with pytest.raises(MgcdaError, match="its configuration is none of a run"):
            model_card(load_exported(run), [], None)


def test_records_that_are_links_are_not_followed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "net")
    (tmp_path / "private").write_text("{}")
    for name in ("provenance.json", "manifests.json"):
        (run / name).symlink_to(tmp_path / "private")
        with pytest.raises(MgcdaError, match="is a link that leads out"):
            model_card(load_exported(run), [], run)
        (run / name).unlink()
