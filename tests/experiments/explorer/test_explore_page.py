"""The page of ``goodteacher explore``: the command itself; and in a browser, with the network blocked."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from goodteacher.experiments.commands.main import main
from goodteacher.experiments.explorer import toolkit as toolkits
from goodteacher.experiments.explorer.edits import Page
from goodteacher.experiments.explorer.starting_points import drawn, published, read_problems

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
LONG = 300_000  # milliseconds: what is followed for the first time is compiled


def start(*options: str) -> tuple[subprocess.Popen[str], str]:
    """The command, and the address that it says."""
    # A shell may have told what it runs in the background to ignore Ctrl-C.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from goodteacher.experiments.commands.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-u", "-c", code, "explore", "--port", "0", "--no-browser", *options]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout is not None
    line = program.stdout.readline()
    return program, re.search(r"http://\S+", line).group()  # pyright: ignore[reportOptionalMemberAccess]


# The command ----------------------------------------------------------------------------------------


def test_without_panel_it_says_how_to_install_it(monkeypatch, capsys):
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(toolkits, "import_module", missing)
    assert main(["explore", "--no-browser"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "goodteacher explore needs Panel and Bokeh: pip install 'goodteacher[explorer]'" in said.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nowhere.json"], "cannot read nowhere.json"),
        (["--port", "70000"], "port is 70000; give 0 to 65535"),
    ],
)
def test_what_cannot_be_served_is_refused(options, said, monkeypatch, capsys):
    monkeypatch.setattr(toolkits, "import_module", lambda name: None)
    assert main(["explore", "--no-browser", *options]) == 2
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(toolkits, "import_module", lambda name: None)
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["explore", "--no-browser", "--port", str(port)]) == 2
    assert f"port {port} cannot be opened" in capsys.readouterr().err


# In a browser ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    program, found = start(str(EXAMPLES / "errors.json"))
    yield found
    program.terminate()
    program.communicate()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    # Large, and installed by make test-browser alone.
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    installed = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """An open page, and what it has complained of or asked the network for."""

    def __init__(self, browser: Any, address: str, scheme: str = "light") -> None:
        """Opens it."""
        self.context = browser.new_context(color_scheme=scheme, accept_downloads=True)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.address = address
        host = urlsplit(address).netloc

        def watch(route: Any) -> None:
            url = urlsplit(route.request.url)
            if url.scheme in ("data", "blob") or url.netloc == host:
                route.continue_()
            else:
                self.complaints.append(f"asked for {route.request.url}")
                route.abort()

        self.context.route("**/*", watch)
        self.page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.open()

    def open(self, query: str = "") -> None:
        """Opens a link."""
        self.page.goto(f"{self.address}{query}")
        self.settle()

    def settle(self) -> None:
        """Waits until what was done last has its answer."""
        settled = (
            "window.goodteacher && goodteacher.settled && goodteacher.answered >= (goodteacher.sent ?? 0)"
        )
        self.page.wait_for_timeout(100)
        self.page.wait_for_function(settled, timeout=LONG)
        self.page.wait_for_timeout(100)

    def reading(self, name: str) -> list[str]:
        """A row of the table of numbers."""
        row = self.page.locator(".readings tr").filter(has=self.page.locator("th", has_text=name)).first
        return row.locator("td").all_inner_texts()

    def say(self, field: str, text: str) -> None:
        """Types into a field."""
        self.page.locator(f"#field-{field}").fill(text)
        self.page.keyboard.press("Enter")
        self.settle()

    def choose(self, field: str, value: str) -> None:
        """Chooses from a list."""
        self.page.locator(f"#field-{field}").select_option(value)
        self.settle()

    def said(self, field: str) -> str:
        """The sentence at a field."""
        return self.page.locator(f"#said-{field}").inner_text()

    def query(self) -> str:
        """Of the link to the state."""
        return self.page.get_by_role("link", name="Link to this state").get_attribute("href")


@pytest.fixture
def tab(chromium, address) -> Iterator[Tab]:
    opened = Tab(chromium, address)
    opened.open("?" + Page(published("proxy, 0.05")).query())
    yield opened
    opened.context.close()
    assert opened.complaints == []


@pytest.mark.browser
def test_a_reward_is_dragged(tab):
    assert tab.reading("hitting time") == ["16.7002"]
    slider = tab.page.locator("#slider-proxy-1")
    box = slider.bounding_box()
    tab.page.mouse.move(box["x"] + 4, box["y"] + box["height"] / 2)
    tab.page.mouse.down()
    for share in (0.3, 0.5, 0.7):
        tab.page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        tab.page.wait_for_timeout(50)
    tab.settle()
    value = float(tab.page.locator("#field-proxy-1").input_value())
    assert 0.2 < value < 0.7
    during = float(tab.reading("hitting time")[0])
    assert 30 < during < 5000  # while the button is still down
    tab.page.mouse.up()
    assert Page.from_query(tab.query()).now.proxy[1] == pytest.approx(value, abs=1e-4)


@pytest.mark.browser
def test_keys_move_rewards_truths_and_probabilities(tab):
    for what in ("proxy", "truth", "start"):
        before = getattr(Page.from_query(tab.query()).now, what)
        tab.page.locator(f"#slider-{what}-2").focus()
        for _ in range(5):
            tab.page.keyboard.press("ArrowRight")
        tab.settle()
        now = getattr(Page.from_query(tab.query()).now, what)
        assert now[2] > before[2]
        assert sum(Page.from_query(tab.query()).now.start) == pytest.approx(1.0)


@pytest.mark.browser
def test_every_field_has_a_label(tab):
    tab.choose("policy", "linear")
    unlabelled = tab.page.locator(".form").evaluate(
        "of => [...of.querySelectorAll('input, select, button, pre')].filter(one => "
        "!(one.labels?.length || one.getAttribute('aria-label'))).map(one => one.outerHTML)"
    )
    assert unlabelled == []


@pytest.mark.browser
def test_switches(tab):
    tab.choose("estimator", "natural")
    assert float(tab.reading("hitting time")[0]) < 5
    assert "natural gradient" in tab.page.locator(".readings:visible").inner_text()
    assert not tab.page.locator("#field-group").is_visible()
    tab.choose("estimator", "grpo")
    assert tab.page.locator("#field-group").is_visible()
    tab.say("group", "8")
    grouped = float(tab.reading("hitting time")[0])
    tab.choose("preset", "trl")
    assert float(tab.reading("hitting time")[0]) == pytest.approx(grouped, rel=0.01)
    tab.choose("estimator", "gradient")
    tab.say("kl", "0.05")
    assert 16.7 < float(tab.reading("hitting time")[0]) < 40
    tab.say("kl", "0")
    tab.choose("policy", "linear")
    assert tab.reading("hitting time") == ["16.7002"]
    tab.page.locator("#field-angle").evaluate(
        "of => { of.value = 60; of.dispatchEvent(new Event('input')); }"
    )
    tab.settle()
    assert tab.reading("hitting time") != ["16.7002"]
    assert Page.from_query(tab.query()).now.features.angle == 60.0  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.browser
def test_outputs_come_and_go(tab):
    rows = tab.page.locator(".outputs tbody tr")
    tab.page.get_by_role("button", name="Add an output").click()
    tab.settle()
    assert rows.count() == 6
    tab.page.get_by_role("button", name="remove output 1").click()
    tab.settle()
    assert rows.count() == 5
    for _ in range(3):
        tab.page.get_by_role("button", name="remove output 0").click()
        tab.settle()
    tab.page.get_by_role("button", name="remove output 0").click()
    tab.settle()
    assert rows.count() == 2
    assert "as few as there may be" in tab.said("outputs")


@pytest.mark.browser
def test_a_state_is_compared_with_the_pinned_one(tab):
    tab.page.get_by_role("button", name="Pin this state").click()
    tab.settle()
    tab.say("proxy-1", "0.8")
    assert tab.reading("hitting time") == ["33564.7", "16.7002"]
    assert "pinned=" in tab.query()
    tab.open(tab.query())
    assert tab.reading("hitting time") == ["33564.7", "16.7002"]
    tab.page.get_by_role("button", name="Back to the pinned one").click()
    tab.settle()
    assert tab.reading("hitting time") == ["16.7002", "16.7002"]
    tab.page.get_by_role("button", name="Unpin").click()
    tab.settle()
    assert tab.reading("hitting time") == ["16.7002"]


@pytest.mark.browser
def test_errors_are_named_by_rule_and_by_effect(tab):
    cells = tab.page.locator(".outputs .judged").all_inner_texts()
    assert cells[1].split("\n") == ["beneficial", "beneficial: time × 0.000498"]
    assert cells[0].strip() == "none"


@pytest.mark.browser
def test_a_link_reproduces_the_state(tab):
    tab.say("start-0", "0.001")
    tab.say("goal", "0.5")
    link = tab.query()
    tab.page.wait_for_function("link => location.href.endsWith(link)", arg=link)
    before = tab.reading("hitting time"), tab.page.locator("#field-start-0").input_value()
    tab.open(link)
    assert (tab.reading("hitting time"), tab.page.locator("#field-start-0").input_value()) == before


@pytest.mark.browser
def test_it_is_exported(tab, tmp_path):
    tab.say("proxy-1", "0.3")
    with tab.page.expect_download() as download:
        tab.page.get_by_role("button", name="Export instance file").click()
    download.value.save_as(tmp_path / "instance.json")
    assert read_problems(tmp_path / "instance.json").situation(0).proxy == (1.0, 0.3, -1.0, -1.0, -1.0)
    with tab.page.expect_download() as download:
        tab.page.locator(".bk-tool-icon-save").first.click()
    download.value.save_as(tmp_path / "charts.png")
    assert (tmp_path / "charts.png").read_bytes().startswith(b"\x89PNG")
    tab.page.locator("summary").click()
    lines = tab.page.locator("pre").inner_text()
    assert "[1.0, 0.3, -1.0, -1.0, -1.0],  # what is trained on" in lines
    tab.page.get_by_role("button", name="Copy").click()
    assert tab.page.evaluate("navigator.clipboard.readText()").strip() == lines.strip()


@pytest.mark.browser
def test_bad_input_is_marked_at_its_field(tab):
    tab.page.locator("#field-proxy-1").fill("abc")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_timeout(500)
    field = tab.page.locator("#field-proxy-1")
    assert field.get_attribute("aria-invalid") == "true"
    assert tab.said("proxy-1") == "proxy reward is 'abc', which is no number; give one such as 0.5"
    assert field.input_value() == "abc"
    assert tab.reading("hitting time") == ["16.7002"]
    tab.say("start-2", "2")
    assert "give a number between 0 and 1" in tab.said("start-2")
    tab.choose("estimator", "maxrl")
    assert "rewards that are not negative" in tab.said("estimator")
    assert "No answer" in tab.page.locator(".headline").first.inner_text()
    tab.choose("estimator", "gradient")
    tab.say("proxy-1", "-1")
    assert field.get_attribute("aria-invalid") == "false"
    assert tab.said("proxy-1") == ""
    assert tab.reading("hitting time") == ["16.7002"]


@pytest.mark.browser
def test_a_bad_link_opens_with_a_sentence(tab):
    tab.open("?proxy=1,0&truth=1")
    assert tab.said("page").startswith("The link is of no state: start is missing")
    assert tab.page.locator(".outputs tbody tr").count() == 5


@pytest.mark.browser
def test_starting_points(tab, tmp_path):
    tab.choose("published", "ground truth, 0.05")
    assert tab.reading("hitting time") == ["33564.7"]
    tab.say("seed", "7")
    assert Page.from_query(tab.query()).now == drawn(7)
    tab.choose("prompt", "2")
    assert tab.page.locator(".outputs .judged").nth(2).inner_text().startswith("harmful I")
    tab.page.locator("#field-file").set_input_files(EXAMPLES / "rollouts.csv")
    tab.page.locator("#field-prompt option").nth(40).wait_for(state="attached", timeout=LONG)
    tab.settle()
    assert Page.from_query(tab.query()).now == read_problems(EXAMPLES / "rollouts.csv").situation(0)
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"rewards": [[1, 2]]}))
    tab.page.locator("#field-file").set_input_files(bad)
    tab.page.locator("#said-file", has_text="bad.json").wait_for()
    assert "key ground_truth_rewards is missing" in tab.said("file")
    assert "/tmp" not in tab.said("file")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_both_colour_schemes(chromium, address, scheme):
    tab = Tab(chromium, address, scheme)
    tab.page.set_viewport_size({"width": 390, "height": 800})
    tab.page.wait_for_timeout(500)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 391
    for where in (".headline", ".outputs th[scope=row]", ".readings td", "summary", ".outputs input.number"):
        color, ground = tab.page.locator(where).first.evaluate(
            "of => [getComputedStyle(of).color, getComputedStyle(document.body).backgroundColor]"
        )
        ink, behind = (sum(map(int, re.findall(r"\d+", of)[:3])) for of in (color, ground))
        assert abs(ink - behind) > 400, where
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) > 380) == (scheme == "light")
    assert tab.complaints == []
    tab.context.close()


@pytest.mark.browser
def test_it_listens_on_loopback_alone_and_ends_with_ctrl_c():
    program, address = start()
    port = urlsplit(address).port
    assert urlsplit(address).hostname == "127.0.0.1"
    listening = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{program.pid}/net/{table}").read_text().splitlines()[1:]
    ]
    owned = {os.readlink(of) for of in Path(f"/proc/{program.pid}/fd").iterdir() if of.is_symlink()}
    own = [line[1] for line in listening if line[3] == "0A" and f"socket:[{line[9]}]" in owned]
    assert own == [f"0100007F:{port:04X}"]
    program.send_signal(signal.SIGINT)
    _, error = program.communicate(timeout=30)
    assert program.returncode == 130
    assert error.splitlines()[-1] == "goodteacher: interrupted"
    assert "Traceback" not in error
