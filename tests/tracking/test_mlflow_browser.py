"""MLflow's own comparison of two runs, in a real browser: filled without a click."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.browser import open_chromium
from tests.support.mlflow_server import MlflowServer
from tests.support.tracked import tracked

pytestmark = [pytest.mark.extended, pytest.mark.timeout(600)]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    browser = open_chromium(tmp_path / "profile")
    browser.set_window_size(1500, 2500)
    yield browser
    browser.quit()


def test_two_runs_are_compared_by_what_differs(server: MlflowServer, browser: webdriver.Chrome, tmp_path: Path) -> None:
    ids: list[str] = []
    for name, enabled in (("baseline", False), ("full", True)):
        tracker = tracked(tmp_path / name, server.uri, "roads", name, tags={"mlflow.note.content": f"**{name}**"})
        tracker.log_params({"mdat": {"enabled": enabled}, "seed": 0})
        for step in range(3):
            tracker.log_metrics({"loss/total": 3.0 - step - enabled, "eval/road/ap": 0.5 + 0.1 * enabled}, step)
        tracker.close("FINISHED")
        ids.append(str(tracker.run_id))

    def shown(url: str, *words: str) -> str:
        browser.get(f"{server.uri}/#/{url}")

        def text() -> str:
            return browser.find_element(By.TAG_NAME, "body").text

        WebDriverWait(browser, 120, ignored_exceptions=[Exception]).until(lambda _: all(w in text() for w in words))
        return text()

    from mlflow import MlflowClient

    experiment = MlflowClient(server.uri).get_run(ids[0]).info.experiment_id
    shown(f"experiments/{experiment}/runs", "baseline", "full", "Road anomaly segmentation with mgcda")
    page = shown(f"experiments/{experiment}/runs/{ids[1]}", "Finished", "eval/road/ap", "mdat.enabled")
    assert "full" in page
    compared = f"compare-runs?runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([experiment]))}"
    page = shown(compared, "Comparing 2 Runs", "baseline", "full", "mdat.enabled", "eval/road/ap", "loss/total", "0.6")
    # The plot opens with the parameters that differ, and with those alone.
    plot = page.partition("Visualizations")[2].partition("Run details")[0]
    assert "mdat.enabled" in plot and "seed" not in plot
