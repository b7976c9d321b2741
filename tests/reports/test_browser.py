"""The report in a real browser: no error, a slider that moves the mask, curves that answer, a phone's width, dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from mgcda_dist.reports.html import write_report
from mgcda_dist.reports.runs import find_runs
from tests.support.browser import open_chromium
from tests.support.evaluations import write_evaluated_run

pytestmark = pytest.mark.slow

PANE = ".viewer[data-gallery='0'] .pane[data-run='0'] "


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    runs = [
        write_evaluated_run(root / "strong", skill=4.0),
        write_evaluated_run(root / "weak", name="w" * 60, skill=1.0, mdat={"enabled": False}),
    ]
    records, _ = find_runs([str(run) for run in runs])
    return write_report(records, root / "report.html").path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    browser = open_chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium: webdriver.Chrome, page: Path) -> Iterator[webdriver.Chrome]:
    """The page, freshly opened on a desk; afterwards the console must be empty."""
    show(chromium, page, width=1280)
    yield chromium
    assert chromium.get_log("browser") == []  # pyright: ignore[reportUnknownMemberType]


def show(browser: webdriver.Chrome, page: Path, *, width: int, dark: bool = False) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())
    WebDriverWait(browser, 20).until(lambda _: marked(browser) > 0)


def run(browser: webdriver.Chrome, script: str, *arguments: Any) -> Any:
    return browser.execute_script(script, *arguments)


def marked(browser: webdriver.Chrome) -> int:
    """Pixels of the first pane that the marks have coloured."""
    script = """
        const pane = panes[0];
        if (pane.photo === undefined) return 0;
        const {width, height} = pane.canvas;
        const now = pane.context.getImageData(0, 0, width, height).data;
        let count = 0;
        for (let at = 0; at < now.length; at += 4) {
          if (now[at] !== pane.photo.data[at] || now[at + 1] !== pane.photo.data[at + 1]) count += 1;
        }
        return count;"""
    return int(run(browser, script))


def slide(browser: webdriver.Chrome, level: int) -> None:
    script = (
        "const s = document.querySelector(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('input'));"
    )
    run(browser, script, PANE + "input", level)


def words(browser: webdriver.Chrome, selector: str) -> list[str]:
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def test_the_slider_moves_the_mask_and_its_numbers(browser: webdriver.Chrome) -> None:
    last = int(browser.find_element(By.CSS_SELECTOR, PANE + "input").get_attribute("max") or 0)
    counts, numbers = list[int](), list[list[str]]()
    for level in (0, last // 2, last):
        slide(browser, level)
        counts.append(marked(browser))
        numbers.append(words(browser, PANE + ".whole td"))
    assert counts[0] > counts[1] > counts[2] > 0  # what is missed stays marked
    assert len({tuple(row) for row in numbers}) == 3 and numbers[0][1] == "100.00"
    browser.find_element(By.CSS_SELECTOR, PANE + ".best").click()
    precision, recall, f1, _ = (float(word) for word in words(browser, PANE + ".whole td"))
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall), abs=0.02)


def test_the_slider_answers_the_keyboard_and_speaks(browser: webdriver.Chrome) -> None:
    slider = browser.find_element(By.CSS_SELECTOR, PANE + "input")
    before, count = int(slider.get_attribute("value") or 0), marked(browser)
    slider.send_keys(*[Keys.ARROW_LEFT] * 20)
    assert int(slider.get_attribute("value") or 0) == before - 20
    assert marked(browser) != count
    assert "recall" in (slider.get_attribute("aria-valuetext") or "")


def test_a_frame_is_chosen_by_its_thumbnail_and_shown_in_four_ways(browser: webdriver.Chrome) -> None:
    def picture() -> str:
        return str(run(browser, "return panes[0].canvas.toDataURL()"))

    seen = {picture()}
    for mode in ("score", "truth", "photo"):
        browser.find_element(By.CSS_SELECTOR, f".viewer[data-gallery='0'] input[value='{mode}']").click()
        seen.add(picture())
    assert len(seen) == 4
    last = picture()
    thumb = browser.find_elements(By.CSS_SELECTOR, ".viewer[data-gallery='0'] .thumbs button")[1]
    thumb.click()
    WebDriverWait(browser, 20).until(lambda _: picture() != last)
    assert thumb.get_attribute("aria-pressed") == "true"
    assert words(browser, PANE + ".key")[0] == words(browser, ".viewer[data-gallery='0'] .thumbs .key")[1]


def test_curves_have_legends_and_units_and_answer(browser: webdriver.Chrome) -> None:
    charts = browser.find_elements(By.CSS_SELECTOR, "figure.chart")
    assert len(charts) >= 7
    for chart in charts:
        assert all(button.text for button in chart.find_elements(By.CSS_SELECTOR, ".legend button"))
        assert len(chart.find_elements(By.CSS_SELECTOR, "text.name")) == 2
    names = words(browser, "text.name")
    assert {"recall, %", "precision, %", "false positive rate, %", "step", "loss", "rate"} <= set(names)
    chart = browser.find_element(By.ID, "set0-pr")
    chart.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    tip = chart.find_element(By.CSS_SELECTOR, ".tip").text
    assert "recall 2.00 %" in tip and "strong:" in tip and "threshold" in tip
    chart.find_elements(By.CSS_SELECTOR, ".legend button")[1].click()
    assert len([g for g in chart.find_elements(By.CSS_SELECTOR, "g.series") if g.is_displayed()]) == 1


def test_smoothing_is_a_switch(browser: webdriver.Chrome) -> None:
    path = browser.find_element(By.CSS_SELECTOR, "#training path.smooth")
    assert path.is_displayed()
    browser.find_element(By.ID, "smooth").click()
    assert not path.is_displayed()


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_down_only(browser: webdriver.Chrome, page: Path, dark: bool) -> None:
    show(browser, page, width=360, dark=dark)
    run(browser, "document.querySelectorAll('details').forEach((each) => (each.open = true))")
    wide = """return [...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > 361 &&
              !e.closest('.scroll, pre, nav')).map((e) => e.outerHTML.slice(0, 80))"""
    assert run(browser, wide) == []
    assert run(browser, "return document.documentElement.scrollWidth") <= 360
    ground = str(run(browser, "return getComputedStyle(document.body).backgroundColor"))
    assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")


def test_every_picture_says_what_it_is(browser: webdriver.Chrome) -> None:
    script = """return [...document.querySelectorAll('img, canvas, svg')]
                .filter((e) => !(e.getAttribute('alt') || e.getAttribute('aria-label'))).map((e) => e.outerHTML)"""
    assert run(browser, script) == []
    assert run(browser, "return [...document.images].every((e) => e.complete && e.naturalWidth > 0)")
