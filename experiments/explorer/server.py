"""Serves the page on this machine alone, until Ctrl-C."""

import contextlib
import signal
import socket
import webbrowser
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from goodteacher.experiments.explorer.session import Session
from goodteacher.experiments.explorer.starting_points import Collection
from goodteacher.experiments.explorer.toolkit import toolkit

HOST, PORT = "127.0.0.1", 5007
_TEMPLATE = Path(__file__).with_name("page_template.html")


def free_port(port: int) -> int:
    """A port that can be opened: the one that is asked for, or any if that is 0.

    Raises:
        ValueError: saying why.
    """
    if not 0 <= port < 65536:
        raise ValueError(f"port is {port}; give 0 to 65535, 0 for any that is free")
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
            return trial.getsockname()[1]
        except OSError as error:
            raise ValueError(f"port {port} cannot be opened: {error.strerror}; give another") from error


def serve(source: Collection | None, port: int = PORT, *, browse: bool = True) -> None:
    """Serves the page until the process is interrupted.

    Args:
        source: problems that the page may start from.
        port: on the loopback interface; 0 for any that is free.
        browse: open the browser.

    Raises:
        ValueError: if Panel or Bokeh are not installed, or the port cannot be opened.
    """
    panel = toolkit("panel")
    port = free_port(port)
    worker = ThreadPoolExecutor(1)

    def page() -> Any:
        state = panel.state
        query = (state.location.search if state.location is not None else "") or ""
        session = Session(state.curdoc, query, source, worker)
        made = panel.Template(_TEMPLATE.read_text(encoding="utf-8"))
        made.add_panel("controls", session.controls)
        made.add_panel("answer", session.answer)
        made.add_panel("numbers", session.numbers)
        made.add_panel("charts", panel.pane.Bokeh(session.charts.grid, sizing_mode="stretch_width"))
        return made

    panel.config.reuse_sessions = False
    interrupt = signal.getsignal(signal.SIGINT)
    server = panel.serve(
        {"/": page},
        address=HOST,
        port=port,
        websocket_origin=[f"{name}:{port}" for name in (HOST, "localhost")],
        title="goodteacher explore",
        show=False,
        start=False,
        verbose=False,
        threaded=False,
    )
    signal.signal(signal.SIGINT, interrupt)  # Panel has taken it for itself
    server.start()
    address = f"http://{HOST}:{port}/"
    print(f"The page is at {address} until Ctrl-C.", flush=True)
    if browse:
        webbrowser.open(address)
    server.io_loop.start()
