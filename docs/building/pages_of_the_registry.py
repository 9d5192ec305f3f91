"""Pages that the registries write: every statement, every figure, every module of the reference.

They go to ``docs/generated/`` before Sphinx reads the sources.
"""

import ast
import importlib
import inspect
import itertools
import pkgutil
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import goodteacher
from goodteacher import experiments, sim, theory
from goodteacher.experiments import rollouts, sweeps
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.registry import find_experiments
from goodteacher.experiments.rollouts.formats import FORMATS
from goodteacher.theory import findings
from goodteacher.theory.formulas import Formula
from goodteacher.theory.statements import Dropped, Statement

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
GENERATED = DOCS / "generated"


# Statements -------------------------------------------------------------------


def _modules(package: ModuleType) -> list[ModuleType]:
    names = sorted(found.name for found in pkgutil.iter_modules(package.__path__) if not found.ispkg)
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]


def families() -> dict[ModuleType, Sequence[Statement]]:
    """The modules that state something, with their statements."""
    stating = {module: getattr(module, "STATEMENTS", ()) for module in _modules(theory)}
    return {module: statements for module, statements in stating.items() if statements}


def _short(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def _heading(module: ModuleType) -> str:
    first = (inspect.getdoc(module) or _short(module)).split("\n\n")[0].replace("\n", " ")
    # Roles are no markup of a heading.
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", first).replace("``", "").rstrip(".:")


def linked(citation: str) -> str:
    """A citation with links to arXiv, and modules of the house as such."""
    citation = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", citation)
    return re.sub(r"theory/(\w+)\.py", r"{py:mod}`~goodteacher.theory.\1`", citation)


def cell(text: str) -> str:
    """A text that may stand in a cell of a table and means itself."""
    return re.sub(r"([|*_<>\[\]$`])", r"\\\1", " ".join(text.split()))


def _factor(statement: Statement) -> str:
    known = findings.known().get(statement.name)
    return "" if known is None else f"{known.factor:.3g}"


def _numbers(formula: Formula, statement: Statement) -> str:
    """The numbers of a bound, each with the nearest values that were refuted."""
    false = findings.known()[statement.name].false
    values = {
        name: " or ".join(f"{value:.4g}" for value in false.get(name, ())) or "none known"
        for name in formula.numbers
    }
    return "; ".join(f"{cell(name)} {n:.4g} ({values[name]})" for name, n in formula.numbers.items())


def drawn_from(experiment: Experiment, module: ModuleType) -> bool:
    """Whether the module of a figure imports that module of theory."""
    source = (ROOT / "experiments" / "gallery" / f"{experiment.name}.py").read_text(encoding="utf-8")
    imports = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom))
    return any(
        module.__name__ in (node.module, f"{node.module}.{alias.name}")
        for node in imports
        for alias in node.names
    )


# Figures that show what a module states without importing it.
SHOWN = {
    "benign": ["error_map"],
    "clock_laws": ["estimator_clocks"],
    "feature_geometry_law": ["feature_geometry"],
    "harmful": ["error_map", "optimisers"],
    "reuse_law": ["stale_samples"],
    "stall_integral": ["itinerary"],
}


def _figures_of(module: ModuleType, statements: Sequence[Statement]) -> list[Experiment]:
    """Those drawn from it, those that show it, and if there is none that of all bounds."""
    every = find_experiments()
    found = [each for each in every.values() if drawn_from(each, module)]
    found += [every[name] for name in SHOWN.get(_short(module), ()) if every[name] not in found]
    bounds = any(statement.bound for statement in statements)
    return found or ([every["tightness"]] if bounds else [])


def _statement(statement: Statement) -> Iterator[str]:
    yield f"(statement-{statement.name})=\n## {cell(statement.title)}\n"
    yield f"```{{code-block}} none\n:class: statement\n\n{statement.formula}\n```\n"
    rows = {
        "Name": f"`{statement.name}`",
        "Source": linked(statement.citation),
        "Assumptions": cell(statement.assumptions),
        "Kind": "bound" if statement.bound else "identity, rate or limit, to a tolerance",
    }
    if factor := _factor(statement):
        rows["Tightness"] = f"the two sides are a factor of {factor} apart on the tightest instance found"
        if isinstance(statement.judge, Formula):
            rows["Its numbers, and the nearest that are known to be false"] = _numbers(
                statement.judge, statement
            )
    dropped = [name for name, what in statement.sabotages.items() if isinstance(what, Dropped)]
    if dropped:
        rows["Refuted when an assumption is dropped"] = "; ".join(map(cell, dropped))
    rows["Check it"] = f"`goodteacher verify {statement.name}`"
    yield from (f"{name}\n: {text}\n" for name, text in rows.items())


def family_page(module: ModuleType, statements: Sequence[Statement]) -> Iterator[str]:
    """A module of theory: what it says of itself, its statements, its figures."""
    yield f"# {cell(_heading(module))}\n"
    for statement in statements:
        yield from _statement(statement)
    for experiment in _figures_of(module, statements):
        yield f"```{{figure}} ../../../figures/{experiment.name}.png\n:alt: {experiment.title}\n"
        link = f"[{cell(experiment.title)}](../gallery/{experiment.name}.md)"
        yield f"{link}: what is seen, and the code.\n```\n"
    yield "## Assumptions and derivation\n\nWhat the module says, with the proofs of what is derived here:\n"
    yield from reference(module)


def table_of_statements() -> Iterator[str]:
    """Every statement with its source and how tight it is."""
    yield "| statement | source | factor |\n|---|---|---|"
    for each in itertools.chain(*families().values()):
        link = f"{{ref}}`{each.title} <statement-{each.name}>`, `{each.name}`"
        yield f"| {link} | {linked(each.citation)} | {_factor(each)} |"
    yield ""


def table_of_formats() -> Iterator[str]:
    """Every format of rollouts, with the keys that it is recognised by."""
    yield "| written by | recognised by the keys | a prompt is | rewards | ground truth |"
    yield "|---|---|---|---|---|"
    for each in FORMATS:
        keys, prompt, rewards = (
            ", ".join(f"`{name}`" for name in names)
            for names in (sorted(each.keys), each.prompt, each.rewards)
        )
        truth = f"`{each.truth}`" if each.truth else "with `--truth`"
        yield f"| {each.name} | {keys} | {prompt} | {rewards or 'every other column of numbers'} | {truth} |"
    yield ""


# Gallery ----------------------------------------------------------------------


def gallery_page(experiment: Experiment) -> Iterator[str]:
    """A figure with its caption, its files and the code that makes it."""
    name = experiment.name
    yield f"(figure-{name})=\n# {cell(experiment.title)}\n"
    yield f"```{{image}} ../../../figures/{name}.png\n:alt: {experiment.title}\n:width: 100%\n```\n"
    caption = (ROOT / "figures" / f"{name}.txt").read_text(encoding="utf-8")
    yield from (f"{linked(cell(panel))}\n" for panel in re.split(r"\s+(?=\([b-h]\) )", caption))
    files = (
        f"{{download}}`{kind} <../../../figures/{name}.{kind.lower()}>`" for kind in ("PDF", "PNG", "CSV")
    )
    yield f"Files: {', '.join(files)}. Draw it anew: `goodteacher figures {name}`.\n"
    yield "## The code\n"
    yield f"```{{literalinclude}} ../../../experiments/gallery/{name}.py\n:language: python\n```\n"


# Reference --------------------------------------------------------------------


def reference(module: ModuleType) -> Iterator[str]:
    """All that a module says and defines."""
    yield f"```{{eval-rst}}\n.. automodule:: {module.__name__}\n```\n"


def reference_page(module: ModuleType) -> Iterator[str]:
    """A module that states nothing, on a page of its own."""
    yield f"# {module.__name__.removeprefix('goodteacher.')}\n"
    yield from reference(module)


def public_page() -> Iterator[str]:
    """The public names, with all that their docstrings say."""
    homes = {"Problems and dynamics": "sim", "Statements": "theory", "Rollouts and sweeps": "experiments"}
    yield "# Public names\n\nImported from `goodteacher` itself. Each is loaded when it is first asked for.\n"
    for title, room in homes.items():
        yield f"## {title}\n"
        for name in goodteacher.__all__:
            thing = getattr(goodteacher, name)
            if thing.__module__.split(".")[1] == room:
                kind = "autoclass" if inspect.isclass(thing) else "autofunction"
                yield f"```{{eval-rst}}\n.. {kind}:: {thing.__module__}.{name}\n   :no-index:\n```\n"
                yield f"Defined in {{py:mod}}`{thing.__module__}`.\n"


ROOMS = {"sim": [sim], "theory": [theory], "experiments": [experiments, rollouts, sweeps]}


def _modules_of(room: str) -> list[ModuleType]:
    """Those of a room that have a page of their own in the reference."""
    every = itertools.chain(*([package, *_modules(package)] for package in ROOMS[room]))
    stating = families()
    return [module for module in every if module not in stating]


def table_of_modules(room: str) -> Iterator[str]:
    """What each module of a room is for, in the words of its docstring."""
    yield "| module | what |\n|---|---|"
    for module in _modules_of(room):
        name = module.__name__.removeprefix("goodteacher.")
        yield f"| [{name}](../generated/reference/{module.__name__}.md) | {cell(_heading(module))} |"
    yield ""


def pages() -> Mapping[str, Callable[[], Iterator[str]]]:
    """What is written, by path."""
    found: dict[str, Callable[[], Iterator[str]]] = {"public.md": public_page}
    found["statements.inc.md"] = table_of_statements
    found["formats.inc.md"] = table_of_formats
    for module, statements in families().items():
        found[f"theory/{_short(module)}.md"] = lambda m=module, s=statements: family_page(m, s)
    for name, experiment in find_experiments().items():
        found[f"gallery/{name}.md"] = lambda e=experiment: gallery_page(e)
    for room in ROOMS:
        found[f"modules_of_{room}.inc.md"] = lambda r=room: table_of_modules(r)
        for module in _modules_of(room):
            found[f"reference/{module.__name__}.md"] = lambda m=module: reference_page(m)
    return found


def write(app):
    """Writes all pages anew."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    for path, text in pages().items():
        target = GENERATED / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(text()), encoding="utf-8")


def setup(app):
    """Before the sources are read."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
