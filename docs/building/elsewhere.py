"""Links into the documentation of other projects without fetching anything: their addresses stand here.

``elsewhere.txt`` has a line for each name that is linked: project, name, kind of the Python domain, page.
"""

import zlib
from pathlib import Path

HERE = Path(__file__).parent
HOMES = {
    "python": "https://docs.python.org/3/",
    "jax": "https://docs.jax.dev/en/latest/",
    "numpy": "https://numpy.org/doc/stable/",
    "diffrax": "https://docs.kidger.site/diffrax/",
    "optax": "https://optax.readthedocs.io/en/latest/",
    "xarray": "https://docs.xarray.dev/en/stable/",
}
ROWS = [line.split() for line in (HERE / "elsewhere.txt").read_text(encoding="utf-8").splitlines()]
NAMES = {name for _, name, _, _ in ROWS}


def _inventory(project: str, rows: list[tuple[str, str, str]]) -> bytes:
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    body = "".join(f"{name} py:{kind} 1 {page} -\n" for name, kind, page in rows)
    return head.encode() + zlib.compress(body.encode())


def write(app, config):
    """Writes the inventories before intersphinx reads them."""
    folder = Path(app.doctreedir) / "elsewhere"
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for project, home in HOMES.items():
        path = folder / f"{project}.inv"
        path.write_bytes(_inventory(project, [tuple(row) for of, *row in ROWS if of == project]))
        mapping[project] = (home, str(path))
    config.intersphinx_mapping = mapping


def setup(app):
    """Before intersphinx, which checks the mapping at the same event."""
    app.connect("config-inited", write, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
