"""How long the page of ``goodteacher explore`` takes from a change to the drawn answer, in Chromium."""

import os
import shutil
import statistics
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import table
from goodteacher.experiments.explorer.edits import Page
from goodteacher.experiments.explorer.situation import Features, Situation
from goodteacher.experiments.followed import Followed

_CHANGES = 30  # of a reward, one after the other
_TICKS = os.sysconf("SC_CLK_TCK")

# When the last line was drawn on a canvas.
_WATCH = """
for (const name of ["stroke", "fill"]) {
  const own = CanvasRenderingContext2D.prototype[name];
  CanvasRenderingContext2D.prototype[name] = function (...given) {
    window.drawn = performance.now();
    return own.apply(this, given);
  };
}
"""
_CHANGE = """
(slider, value) => {
  window.changed = performance.now();
  slider.value = value;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
}
"""
_STILL = """
() => goodteacher.settled && goodteacher.at > changed && goodteacher.answered >= goodteacher.sent
  && drawn > goodteacher.at && performance.now() - drawn > 100
"""


def situation(outputs: int, **others: Any) -> Situation:
    """A problem of so many outputs, half of which the proxy errs at."""
    random = np.random.default_rng(outputs)
    truth = random.uniform(-1.0, 1.0, outputs)
    proxy = np.where(np.arange(outputs) % 2, truth, random.uniform(-1.0, 1.0, outputs))
    start = random.dirichlet(np.ones(outputs)) + 1e-4
    proxy, truth, start = (tuple(map(float, of)) for of in (proxy, truth, start / start.sum()))
    return Situation(proxy, truth, start, **others)


def processor_seconds(process: int) -> float:
    """What a process has used, of the user and of the system."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def start_server() -> tuple[subprocess.Popen[str], str]:
    """The command, and the address that it says."""
    command = [sys.executable, "-u", "-m", "goodteacher", "explore", "--port", "0", "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    threading.Thread(target=server.stdout.read, daemon=True).start()
    return server, next(word for word in line.split() if word.startswith("http"))


def latencies(tab: Any, address: str, of: Situation, process: int) -> tuple[float, ...]:
    """Milliseconds from a change to the last line drawn, median and nine tenths; and the server's CPU's."""
    tab.goto(f"{address}?{Page(of).query()}")
    tab.wait_for_function("window.goodteacher && goodteacher.settled", timeout=300_000)
    tab.wait_for_timeout(500)
    taken = []
    slider = tab.locator("#slider-proxy-1")
    slider.evaluate(_CHANGE, 0.11)
    tab.wait_for_function(_STILL, timeout=300_000)
    used = processor_seconds(process)
    for value in np.linspace(-0.9, 0.9, _CHANGES):
        slider.evaluate(_CHANGE, float(value))
        tab.wait_for_function(_STILL, timeout=300_000)
        taken.append(tab.evaluate("drawn - changed"))
    used = 1e3 * (processor_seconds(process) - used) / _CHANGES
    return statistics.median(taken), float(np.quantile(taken, 0.9)), used


def main() -> None:
    """Prints the latencies for few and many outputs, and what is followed; nothing without a browser."""
    try:
        from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("\nthe page of goodteacher explore: not measured, for playwright is not installed")
        return
    cases = {
        "gradient": {},
        "natural": {"followed": Followed("natural")},
        "GRPO": {"followed": Followed("grpo")},
        "KL 0.05": {"kl": 0.05},
        "features at 60°": {"features": Features(angle=60.0)},
    }
    server, address = start_server()
    installed = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    rows = []
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=installed, args=["--no-sandbox"])
            tab = browser.new_page()
            tab.add_init_script(_WATCH)
            for name, options in cases.items():
                for outputs in (5, 20):
                    found = latencies(tab, address, situation(outputs, **options), server.pid)
                    rows.append((name, outputs, *found))
            browser.close()
    finally:
        server.terminate()
        server.wait()
    table(
        "the page of goodteacher explore, from a change to the drawn answer in Chromium, "
        f"at a load of {os.getloadavg()[0]:.1f}",
        ("followed", "outputs", "median ms", "90 % ms", "server's CPU ms"),
        rows,
    )


if __name__ == "__main__":
    main()
