"""The registry finds every experiment; figures are written whole, reproducibly, or not at all."""

import importlib.metadata
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure

from goodteacher.experiments import gallery
from goodteacher.experiments.datasets import table
from goodteacher.experiments.experiment import Experiment, Parted, Swept
from goodteacher.experiments.registry import compute, find_experiment, find_experiments, save
from goodteacher.experiments.sweeps import provenance
from goodteacher.experiments.sweeps.specification import specify
from goodteacher.experiments.sweeps.store import StoreError
from goodteacher.figures.style import paper, spread


def run(settings):
    x = xr.Variable("x", np.linspace(0.1, 1.0, 4), {"long_name": "x", "units": "1"})
    y = xr.Variable("x", np.sqrt(x.values), {"long_name": "root", "units": "1"})
    z = xr.Variable("k", [1.0 / 3.0, np.inf], {"long_name": "z", "units": "1"})
    return {"roots": xr.Dataset({"y": y}, {"x": x}), "others": xr.Dataset({"z": z})}


@paper()
def figure(data, settings):
    drawing = Figure(figsize=(2, 2))
    ax = drawing.subplots()
    ax.plot(data["roots"]["x"], data["roots"]["y"])
    ax.set_title("$\\sqrt{x}$")
    return drawing


def small(**changes):
    parts = {"name": "small", "title": "Small", "settings": None, "run": run, "figure": figure}
    return Experiment(**{**parts, "caption": lambda data, settings: "What is seen.", **changes})


def never(*given):
    raise AssertionError("it was computed")


def test_registry_finds_every_module_that_defines_an_experiment():
    folder = Path(gallery.__path__[0])
    defining = {path.stem for path in folder.glob("*.py") if "\nEXPERIMENT = " in path.read_text()}
    found = find_experiments()
    assert set(found) == defining
    assert {"beneficial_errors", "feature_similarity", "stalling_law", "optimisers"} <= defining
    for name, experiment in found.items():
        assert experiment.figure.__module__ == f"goodteacher.experiments.gallery.{name}"
        assert experiment.title


def test_the_gallery_is_whole():
    folder = Path(__file__).parents[2] / "figures"
    wanted = {f"{name}.{suffix}" for name in find_experiments() for suffix in ("png", "pdf", "csv", "txt")}
    assert wanted - {path.name for path in folder.iterdir()} == set()


def test_unknown_experiment_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match=r"'stalling_lav' is unknown; did you mean stalling_law"):
        find_experiment("stalling_lav")


def test_save_writes_four_files_again_to_the_byte(tmp_path):
    first = save(small(), tmp_path / "new" / "first")
    second = save(small(), tmp_path / "second", run(None))
    assert [path.name for path in first] == ["small.png", "small.pdf", "small.csv", "small.txt"]
    assert sorted((tmp_path / "new" / "first").iterdir()) == sorted(first)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert b"CreationDate" not in first[1].read_bytes()
    assert first[3].read_text() == "What is seen.\n"


def test_save_writes_the_numbers(tmp_path):
    data = run(None)
    written = pd.read_csv(save(small(), tmp_path)[2])
    assert list(written.columns) == ["panel", "x", "y", "k", "z"]
    assert list(written["panel"]) == 4 * ["roots"] + 2 * ["others"]
    nothing = np.full(4, np.nan)
    np.testing.assert_allclose(written["y"], [*data["roots"]["y"].values, *nothing[:2]], rtol=1e-9)
    np.testing.assert_allclose(written["z"], [*nothing, *data["others"]["z"].values], rtol=1e-9)
    assert len(table(data)) == 6


def test_nothing_is_computed_for_a_folder_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    for folder in (file, file / "below"):
        with pytest.raises(ValueError, match=r"cannot write to .*file.*: .*; give another folder"):
            save(small(run=never), folder)


def test_nothing_is_left_or_lost_when_drawing_fails(tmp_path):
    old = tmp_path / "small.png"
    old.write_text("older figure")
    with pytest.raises(AssertionError, match="it was computed"):
        save(small(figure=never), tmp_path)
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_text() == "older figure"


def test_a_users_own_style_is_neither_used_nor_changed(tmp_path):
    plain = save(small(), tmp_path / "plain")[0].read_bytes()
    with mpl.rc_context({"lines.linewidth": 7.0, "font.size": 30}):
        before = dict(mpl.rcParams)
        assert save(small(), tmp_path / "own")[0].read_bytes() == plain
        assert dict(mpl.rcParams) == before


def test_spread_moves_labels_apart_and_no_further():
    wanted = [5.0, 0.0, 0.4, 0.2, 9.0]
    placed = spread(wanted, 1.0)
    np.testing.assert_allclose(placed, [5.0, -0.8, 1.2, 0.2, 9.0])
    np.testing.assert_array_equal(np.argsort(placed), np.argsort(wanted))
    np.testing.assert_allclose(spread(wanted, 0.1), wanted)


def swept(seeds):
    """An experiment whose numbers are entropies of random policies, from a store."""

    def sweep(settings):
        return specify("random", {"seed": f"range:0:{settings}"}, ["entropy"])

    def summary(dataset, settings):
        assert dataset.sizes == {"seed": settings}
        return {"entropies": dataset[["entropy"]].load()}

    return small(run=Swept(sweep, summary), settings=seeds)


def test_numbers_come_from_a_store_that_is_gone_on_with(tmp_path, monkeypatch):
    told = []
    first = compute(swept(3), tmp_path, tell=lambda done, total: told.append((done, total)))["entropies"]
    assert first.sizes == {"seed": 3}
    assert told[0] == (0, 1)
    assert told[-1] == (1, 1)
    plan = (tmp_path / "small" / ".sweep" / "plan.json").stat().st_mtime_ns
    # What is complete is read, and not computed again.
    monkeypatch.setattr("goodteacher.experiments.sweeps.runner.compute", never)
    xr.testing.assert_identical(compute(swept(3), tmp_path)["entropies"], first)
    assert (tmp_path / "small" / ".sweep" / "plan.json").stat().st_mtime_ns == plan


def test_without_a_store_the_numbers_are_the_same_and_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alone = swept(3).run(3)["entropies"]
    assert list(tmp_path.iterdir()) == []
    xr.testing.assert_identical(compute(swept(3), tmp_path / "stores")["entropies"], alone)


def test_a_store_that_does_not_fit_is_never_drawn(tmp_path, monkeypatch):
    compute(swept(3), tmp_path)
    with pytest.raises(StoreError, match=r"discard what it holds"):
        compute(swept(4), tmp_path, renew=False)
    assert compute(swept(4), tmp_path)["entropies"].sizes == {"seed": 4}

    monkeypatch.setattr(provenance, "_PACKAGES", ())  # as if no version were the same
    with pytest.raises(StoreError, match=r"jax is .* in the store"):
        compute(swept(4), tmp_path, renew=False)
    array = tmp_path / "small" / "entropy" / "c.0"
    array.write_bytes(b"older")
    assert np.isfinite(compute(swept(4), tmp_path)["entropies"]["entropy"]).all()
    assert array.read_bytes() != b"older"


def test_parts_of_other_versions_are_computed_anew(tmp_path, monkeypatch):
    computed = []

    def part(settings, name):
        computed.append(name)
        return {"x": np.arange(settings)}

    def summary(parts, settings):
        return {"one": xr.Dataset({"x": ("n", parts["one"]["x"])})}

    run = Parted(lambda settings: ["one"], part, summary)
    real = importlib.metadata.version
    for package in ("jax", "numpy", "optax", "scipy", "scikit-learn"):
        before = len(computed)
        run.stored(3, tmp_path)
        run.stored(3, tmp_path, renew=False)
        assert len(computed) == before + 1
        with monkeypatch.context() as changed:
            other = {package: "0.0"}
            changed.setattr(
                importlib.metadata, "version", lambda name, other=other: other.get(name) or real(name)
            )
            with pytest.raises(StoreError, match="another version"):
                run.stored(3, tmp_path, renew=False)
            run.stored(3, tmp_path)
        assert len(computed) == before + 2


def test_a_damaged_store_is_mended(tmp_path):
    whole = compute(swept(3), tmp_path)["entropies"]
    array = tmp_path / "small" / "entropy" / "c.0"
    before = array.read_bytes()
    array.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    xr.testing.assert_identical(compute(swept(3), tmp_path, renew=False)["entropies"], whole)
    assert array.read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "mine").touch()
    with pytest.raises(StoreError, match=r"not empty and not the store of a sweep"):
        compute(swept(3), tmp_path)
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["mine"]


def test_large_tables_are_left_to_the_store():
    many = xr.Dataset({"y": ("x", np.zeros(20_001))})
    few = xr.Dataset({"y": ("x", np.zeros(20_000))})
    assert len(table({"many": many, "few": few})) == 20_000


def test_full_versions_have_names_of_their_own():
    full = small(full=7).at_full_size()
    assert (full.name, full.settings) == ("small_full", 7)
    with pytest.raises(ValueError, match=r"experiment small has no full version; draw it as it is"):
        small().at_full_size()
