"""Keys in MLflow: distinct in any script, taken by MLflow, and each refused one costs itself alone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgcda_dist.tracking.mlflow_names import clean_name, log_each, original_name
from mgcda_dist.tracking.mlflow_runs import MlflowStore
from tests.support.tracked import tracked

CLASSES = [
    "道路",
    "天空",
    "дорога",
    "n/a",
    "n//a",
    "a b",
    "a_b",
    "a=b",
    "a:b",
    "a:3Db",
    "ü",
    "u\u0308",
    "🚗",
    "हिन्दी",
    "..",
    "/",
    "",
]
LONG = ["x" * 300, "x" * 299 + "y", "道" * 250, "道" * 251]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@settings(deadline=None)  # MLflow is imported
@given(st.text(st.characters(codec=None), min_size=1, max_size=80))
def test_a_key_is_taken_and_leads_back(text: str) -> None:
    from mlflow.utils import validation

    key = clean_name(text)
    assert validation.validate_param_and_metric_name(key) and not validation.path_not_unique(key)
    assert len(key) <= 250 and (original_name(key) == text or "::" in key)


def test_common_keys_stay_as_they_are() -> None:
    for key in ("optim.steps", "eval/set-1/iou/traffic light", "loss.class_weights.道路", "mlflow.note.content"):
        assert clean_name(key) == key and original_name(key) == key
    assert clean_name("a=b") == "a:3Db" and clean_name("n//a") == "n:2F:2Fa"
    assert len({clean_name(text) for text in LONG}) == len(LONG)
    assert original_name("system/fe80::AB/cpu") == "system/fe80::AB/cpu" and original_name("a:FF") == "a:FF"


def test_names_of_any_script_arrive_apart(uri: str, tmp_path: Path) -> None:
    names = [*CLASSES, *LONG]
    tracker = tracked(tmp_path, uri, "names", "run")
    tracker.log_params({"loss": {"class_weights": {name: i for i, name in enumerate(names)}}})
    tracker.log_metrics({f"eval/set/iou/{name}": float(i) for i, name in enumerate(names)}, 0)
    tracker.set_tags({f"mgcda.class.{name}": str(i) for i, name in enumerate(names)})
    tracker.close("FINISHED")
    assert tracker.num_failures == 0
    store = MlflowStore(uri)
    run = store.run(str(tracker.run_id))
    assert run is not None
    for i, name in enumerate(names):
        for values, prefix in (
            (run.params, "loss.class_weights."),
            (run.metrics, "eval/set/iou/"),
            (run.tags, "mgcda.class."),
        ):
            key = prefix + name
            assert float(values[key if len(clean_name(key)) < 250 else clean_name(key)]) == i, key
    assert store.history(run.run_id)["eval/set/iou/道路"] == ([0], [0.0])


def test_a_refused_key_costs_itself(uri: str, tmp_path: Path) -> None:
    said: list[str] = []
    tracker = tracked(tmp_path, uri, "refused", "run", warn=said.append)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
    assert tracker.run_id is not None
    client.log_param(tracker.run_id, "p77", "of somebody else")
    tracker.log_params({f"p{i}": i for i in range(122)})
    tracker.close("FINISHED")
    params = client.get_run(tracker.run_id).data.params
    assert len(params) == 122 and params["p77"] == "of somebody else" and params["p121"] == "121"
    (text,) = (each for each in said if "lacks" in each)  # others say that a slow server is waited for
    assert "lacks 'p77' of the params: " in text and tracker.num_failures == 0


def test_a_run_that_takes_nothing_is_at_fault_and_not_the_keys() -> None:
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    class Deleted:
        def log_batch(self, *args: Any, **options: Any) -> None:
            raise MlflowException("the run must be active", error_code=1000)

    items = [Param(str(i), "x") for i in range(5)]
    with pytest.raises(MlflowException, match="must be active"):
        log_each(Deleted(), "0", "params", items)  # pyright: ignore[reportArgumentType]
