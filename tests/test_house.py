"""The plan of the house: which room may import which, and that a name of a module means one thing."""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCIENCE = {"jax", "equinox", "diffrax", "optimistix", "optax", "jaxtyping", "numpy"}
ROOMS = (
    "commands",
    "explorer",
    "gallery",
    "miniature",
    "reports",
    "rollouts",
    "sweeps",
)  # of the experiments
HALLS = {f"experiments.{name}": name for name in ("experiment", "registry", "drawing")}

# What may be imported, by room; and itself.
ARROWS = {
    "sim": set(),
    "theory": {"sim"},
    "figures": set(),
    "shared": {"sim", "theory", "figures"},  # the other modules of experiments
    "rollouts": {"sim", "theory", "shared"},
    "sweeps": {"sim", "theory", "figures", "shared", "rollouts"},
    "reports": {"sim", "theory", "figures", "shared", "rollouts"},
    "explorer": {"sim", "theory", "figures", "shared", "rollouts", "reports"},
    "miniature": {"sim", "theory", "figures", "shared", "rollouts"},
    "experiment": {"figures", "shared", "sweeps"},
    "gallery": {"sim", "theory", "figures", "shared", "rollouts", "sweeps", "miniature", "experiment"},
    "registry": {"sim", "figures", "shared", "experiment", "gallery"},
    "drawing": {"sim", "shared", "sweeps", "experiment", "registry"},
    "commands": {
        "sim",
        "theory",
        "figures",
        "shared",
        "rollouts",
        "sweeps",
        "reports",
        "explorer",
        "miniature",
        "experiment",
        "gallery",
        "registry",
        "drawing",
    },
}


def modules() -> dict[str, Path]:
    """Every module of the rooms, by its dotted name below ``goodteacher``."""
    found = {}
    for room in ("sim", "theory", "experiments", "figures"):
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    if module in HALLS:
        return HALLS[module]
    first, *rest = module.split(".")
    if first != "experiments":
        return first
    return rest[0] if rest and rest[0] in ROOMS else "shared"


def imports(source: str) -> Iterator[str]:
    """Dotted names of all that a source imports, wherever it stands in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            assert node.module is not None
            for alias in node.names:
                # A name may be a module of a package.
                whole = f"{node.module}.{alias.name}"
                inside = whole.removeprefix("goodteacher.") in MODULES
                yield whole if inside else node.module


def allowed(module: str, name: str) -> bool:
    """Whether a module may import what has that dotted name."""
    here, (top, _, below) = room(module), name.partition(".")
    if top != "goodteacher":
        science = top in SCIENCE or top in sys.stdlib_module_names
        return top not in ("sim", "theory", "experiments", "figures") and (
            science or here not in ("sim", "theory")
        )
    there = room(below) if below else here
    if there == here == "gallery":
        return below == "experiments.gallery.panels"
    return there == here or there in ARROWS[here]


def faults(module: str, source: str) -> list[str]:
    """What a module imports that it may not."""
    return [name for name in imports(source) if not allowed(module, name)]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    assert faults(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("sim.flow", "from goodteacher.theory import stalling"),
        ("sim.flow", "import scipy.stats"),
        ("sim.flow", "import xarray as xr"),
        ("theory.stalling", "from goodteacher.experiments.batches import LEVEL"),
        ("theory.stalling", "def later():\n    import pandas"),
        ("figures.style", "from goodteacher.sim.flow import Status"),
        ("experiments.batches", "from goodteacher.experiments.sweeps import store"),
        ("experiments.batches", "from goodteacher.experiments import registry"),
        ("experiments.sweeps.store", "from goodteacher.experiments.experiment import Experiment"),
        ("experiments.rollouts.intake", "from goodteacher.experiments.reports import teacher_answer"),
        ("experiments.miniature.training", "from goodteacher.experiments.registry import save"),
        ("experiments.reports.simulation", "from goodteacher.experiments.commands import main"),
        ("experiments.reports.simulation", "from goodteacher.experiments.explorer.outlook import outlook"),
        ("experiments.explorer.outlook", "from goodteacher.experiments.commands import main"),
        ("experiments.gallery.reinforce", "from goodteacher.experiments.gallery.estimators import run"),
        ("experiments.gallery.reinforce", "from goodteacher.experiments.gallery import estimators"),
        ("experiments.gallery.reinforce", "from goodteacher.experiments.registry import save"),
        ("experiments.registry", "import goodteacher.experiments.commands.main"),
        ("experiments.commands.main", "from sim.flow import Status"),
    ],
)
def test_imports_against_an_arrow_are_found(module, line):
    assert module in MODULES
    assert len(faults(module, line)) == 1


def flags() -> set[str]:
    """Options of the command line: the parameters of commands and the fields of what they take."""
    found = set()
    for module, path in MODULES.items():
        if room(module) == "commands":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.arg):
                    found.add(node.arg)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    found.add(node.target.id)
    return {f"--{name.replace('_', '-')}" for name in found}


def named_flags(source: str) -> list[str]:
    """Options of the command line that strings of a source name."""
    strings = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    words = [word for text in strings if isinstance(text, str) for word in re.findall(r"--[a-z-]+", text)]
    return sorted(FLAGS.intersection(words))


FLAGS = flags()


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) != "commands"])
def test_only_commands_name_options_of_the_command_line(module):
    assert named_flags(MODULES[module].read_text(encoding="utf-8")) == []


def test_named_options_are_found():
    assert {"--reward", "--learning-rate", "--group", "--output"} <= FLAGS
    assert named_flags('raise ValueError(f"{name} is 3; give --learning-rate")') == ["--learning-rate"]
    assert named_flags('git("--porcelain")') == []


def test_every_room_is_on_the_plan():
    assert {room(module) for module in MODULES} == set(ARROWS)


def test_a_module_name_means_one_thing():
    names = Counter(path.stem for path in MODULES.values() if path.stem != "__init__")
    assert [name for name, count in names.items() if count > 1] == []
