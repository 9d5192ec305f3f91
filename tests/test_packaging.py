"""What an installation adds, from the wheel, the sdist and the checkout; and the public names."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import goodteacher

ROOT = Path(__file__).parents[1]
ROOMS = ("experiments", "figures", "sim", "theory")


def build(target, source, folder):
    """Builds a ``wheel`` or an ``sdist`` of a source tree, without a network; the path of what was built."""
    code = f"from setuptools import build_meta; print(build_meta.build_{target}({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, check=True, capture_output=True, text=True
    )
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, the sdist, and the wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    # A copy, so that nothing is left in the checkout, and nothing that was left there is built.
    unbuilt = shutil.ignore_patterns("__pycache__")
    for name in ("goodteacher", *ROOMS):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=unbuilt)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    sdist = build("sdist", source, folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (folder / "again").mkdir()
    again = build("wheel", folder / sdist.name.removesuffix(".tar.gz"), folder / "again")
    return build("wheel", source, folder), sdist, again


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_wheel_holds_every_module_once_and_no_image(built):
    files = contents(built[0])
    packed = {name: text for name, text in files.items() if ".dist-info/" not in name}
    expected = {f"goodteacher/{name}" for name in ("__init__.py", "__init__.pyi", "__main__.py", "py.typed")}
    expected |= {
        f"goodteacher/{path.relative_to(ROOT)}" for room in ROOMS for path in ROOT.glob(f"{room}/**/*.py")
    }
    data = {"goodteacher/theory/tightest.json", "goodteacher/experiments/reports/page.html"}
    data |= {
        f"goodteacher/experiments/miniature/good_teacher_{name}.csv" for name in ("correlations", "tables")
    }
    page = ("answer.css", "answer.js", "controls.css", "controls.js", "page_template.html")
    data |= {f"goodteacher/experiments/explorer/{name}" for name in page}
    assert set(packed) == expected | data
    assert packed["goodteacher/sim/flow.py"] == (ROOT / "sim/flow.py").read_bytes()


def test_the_sdist_holds_real_files_and_builds_the_same_wheel(built):
    wheel, sdist, again = built
    with tarfile.open(sdist) as archive:
        assert all(member.isfile() or member.isdir() for member in archive)
        modules = [name for name in archive.getnames() if name.endswith("/flow.py")]
    assert modules == [f"{sdist.name.removesuffix('.tar.gz')}/goodteacher/sim/flow.py"]
    assert contents(again) == contents(wheel)


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """An environment with the wheel alone, beside the packages that it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", folder]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", built[0]], check=True)
    added = {path.name for path in site.iterdir()}
    # Not the folder that the checkout is found by.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in others))
    return folder, site, added


def try_(command, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    options = {"cwd": "/", "capture_output": True, "text": True, "timeout": 300} | options
    done = subprocess.run(list(map(str, command)), env=environment, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installation_adds_one_name(installed):
    _, _, added = installed
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert added == {"goodteacher", f"goodteacher-{version}.dist-info"}


def test_an_installation_has_every_public_name_and_the_commands(installed):
    folder, site, _ = installed
    code = (
        "from goodteacher import *; import goodteacher; print(Instance, goodteacher.__file__, sorted(vars()))"
    )
    printed = try_([folder / "bin/python", "-c", code])
    assert str(site / "goodteacher/__init__.py") in printed
    assert all(f"'{name}'" in printed for name in goodteacher.__all__)
    example = ROOT / "examples/ground_truth.json"
    printed = try_([folder / "bin/python", "-m", "goodteacher", "run", example, "--gamma", "0.2"])
    assert "reached" in printed.splitlines()[0]
    assert try_([folder / "bin/goodteacher", "--version"]).startswith("goodteacher ")


def test_the_public_names_are_loaded_when_they_are_asked_for():
    code = (
        "import sys, goodteacher; heavy = {'diffrax', 'matplotlib', 'optax', 'pandas', 'xarray', 'zarr'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "assert dir(goodteacher) == sorted(goodteacher.__all__); goodteacher.sweep;"
        "assert heavy - {'diffrax', 'matplotlib'} <= set(sys.modules)"
    )
    try_([sys.executable, "-c", code], cwd=ROOT)
    assert 12 <= len(goodteacher.__all__) <= 30
    with pytest.raises(AttributeError, match="bogus"):
        goodteacher.bogus  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imported_from_a_checkout_says_what_to_import(room):
    done = subprocess.run([sys.executable, "-c", f"import {room}"], cwd=ROOT, capture_output=True, text=True)
    assert f"import goodteacher.{room} instead" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("folder", [ROOT / "tests/sim", Path("/")], ids=str)
def test_tests_are_found_from_any_folder(folder):
    file = os.path.relpath(ROOT / "tests/sim/test_goals.py", folder)
    printed = try_(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "--collect-only", "-p", "no:cacheprovider", file],
        cwd=folder,
    )
    assert "test_goals.py" in printed
