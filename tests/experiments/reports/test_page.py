"""The page of a diagnosis: what it holds; and in a browser, that it works without a network."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from goodteacher import Rollouts, diagnose
from goodteacher.experiments.reports import teacher_answer
from goodteacher.experiments.reports.page import page
from goodteacher.experiments.rollouts.made_up import REWARDS, made_up

ROOT = Path(__file__).parents[3]


def collection(truth: str | None = "correct") -> Rollouts:
    table = made_up(30)
    # Nothing that stands in a file is taken for markup.
    table["prompt"] = table["prompt"].replace(table["prompt"][0], "<script>alert('prompt')</script>")
    return Rollouts.from_frame(table, prompt="prompt", rewards=list(REWARDS), truth=truth, answer="answer")


@pytest.fixture(scope="module")
def html() -> str:
    rollouts = collection()
    return page(diagnose(rollouts, estimator="natural", resamples=50), rollouts)


def test_the_example_is_the_made_up_data_set():
    pd.testing.assert_frame_equal(
        pd.read_csv(ROOT / "examples/rollouts.csv", dtype={"answer": str}), made_up()
    )


def test_a_page_needs_no_network(html):
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=.?https?:", html)
    assert html.count("<html") == 1


def test_it_says_what_the_command_says(html):
    rollouts = collection()
    data = diagnose(rollouts, estimator="natural", resamples=50)
    assert teacher_answer.answer(data) in html
    assert all(f"<td>{name}</td>" in html for name in REWARDS)
    for heading in ("Verdicts", "Groups", "Pictures", "What the draws cannot tell", "How this was found"):
        assert f"<h2>{heading}" in html
    assert html.count('class="plotly-graph-div"') == 7


def test_a_prompt_is_no_markup(html):
    assert "<script>alert('prompt')" not in html


def test_without_a_truth_there_is_a_page_too():
    rollouts = collection(None)
    without = page(diagnose(rollouts, resamples=5), rollouts)
    assert without.count('class="plotly-graph-div"') == 5
    assert "Without a ground truth" in without
    assert "<h2>Prompts worth training on with" in without
    assert "Verdicts follow" not in without
    assert "mean_reward" in without
    assert "mean_ground_truth" not in without


# In a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(html, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(params=["light", "dark"])
def opened(request, file) -> Iterator[tuple[Any, list[str]]]:
    """The page in Chromium, offline, and what it has complained of."""
    # Large, and installed by make test-browser alone.
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    installed = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        context = browser.new_context(color_scheme=request.param, offline=True)
        tab, complaints = context.new_page(), []
        tab.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
        tab.goto(file)
        tab.wait_for_selector("#prompts table.dataTable tbody tr")
        yield tab, complaints
        browser.close()


@pytest.mark.browser
def test_it_sorts_and_searches(opened):
    tab, complaints = opened

    def column(number: int) -> list[str]:
        return tab.locator(f"#prompts table.dataTable tbody tr td:nth-child({number})").all_inner_texts()

    gains = [float(text) for text in column(3)]
    assert gains == sorted(gains, reverse=True)
    tab.locator("#prompts table.dataTable thead th").nth(2).click()
    tab.wait_for_timeout(200)
    assert [float(text) for text in column(3)] == sorted(float(text) for text in column(3))
    tab.locator("#prompts input[type=search]").fill("learns")
    tab.wait_for_timeout(300)
    assert set(column(2)) == {"learns"}
    assert complaints == []


@pytest.mark.browser
def test_a_point_says_which_prompt_it_is(opened):
    tab, complaints = opened
    chart = tab.locator(".plotly-graph-div").nth(4)
    chart.scroll_into_view_if_needed()
    tab.wait_for_timeout(300)
    point = chart.locator(".scatterlayer .points path").first.bounding_box()
    tab.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    label = chart.locator(".hoverlayer .hovertext")
    label.first.wait_for()
    assert re.search(r"variance .*rate ", label.first.text_content())
    assert complaints == []


@pytest.mark.browser
def test_every_picture_stays_in_its_place(opened):
    """The first is drawn before the page knows of a second one beside it."""
    tab, complaints = opened
    wide = "[...document.querySelectorAll('.charts figure')].map(of => [of.clientWidth, of.scrollWidth])"
    for room, taken in tab.evaluate(wide):
        assert taken <= room + 1
    assert complaints == []


@pytest.mark.browser
def test_it_fits_a_phone_and_both_colour_schemes(opened):
    tab, complaints = opened
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.wait_for_timeout(500)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 391
    colors = tab.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    text, ground = (sum(map(int, re.findall(r"\d+", color)[:3])) for color in colors)
    assert abs(text - ground) > 400
    table = tab.evaluate(
        "[...document.querySelectorAll('#prompts, #prompts .dt-container, #prompts table.dataTable, "
        "#prompts td')].map(of => getComputedStyle(of)).map(of => [of.color, of.backgroundColor])"
    )
    for ink, behind in table:
        assert ink == colors[0]
        assert behind in ("rgba(0, 0, 0, 0)", colors[1])
    label = tab.evaluate("getComputedStyle(document.querySelector('.main-svg .xtick text')).fill")
    assert sum(map(int, re.findall(r"\d+", label)[:3])) == text
    assert complaints == []
