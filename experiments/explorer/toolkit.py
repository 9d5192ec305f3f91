"""Panel and Bokeh, which are optional: they are imported here alone, when the page is made."""

from importlib import import_module
from typing import Any

HOW = (
    "pip install 'goodteacher[explorer]' installs them (in a checkout: "
    ".venv/bin/pip install -c constraints.txt -e '.[explorer]')"
)


def toolkit(name: str) -> Any:
    """A module of Panel or Bokeh; they have no types that are of use.

    Raises:
        ValueError: if it is not installed, saying how it is.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"goodteacher explore needs Panel and Bokeh: {HOW}") from error
