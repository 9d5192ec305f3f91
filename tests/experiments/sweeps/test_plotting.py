"""Figures of sweeps show what is there, and say so of what is not."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from goodteacher.experiments.sweeps import sweep
from goodteacher.experiments.sweeps.plotting import draw, plot

NEVER, ZERO, UNKNOWN = np.inf, 0.0, np.nan


def dataset(values, **axes):
    """A sweep with one measure, a time."""
    measure = (tuple(axes), np.asarray(values, float), {"long_name": "time", "units": "updates"})
    return xr.Dataset({"time": measure}, {name: list(numbers) for name, numbers in axes.items()})


def legends(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def curve(ax):
    """The points of all lines of a panel that have some."""
    points = [np.transpose(line.get_data()) for line in ax.lines]
    return np.concatenate([pair[np.isfinite(pair).all(1)] for pair in points])


def test_lines_are_medians_and_bands_quartiles():
    times = np.array([[4.0, 1.0, 3.0, 2.0, 5.0], [1.0, NEVER, 7.0, NEVER, NEVER]])
    figure = draw(dataset(times, a=[1.0, 2.0], seed=range(5)), x="a", y="time")
    ax = figure.axes[0]
    points = curve(ax)
    assert [1.0, 3.0] in points.tolist()
    # The other median is infinite: above all that is finite, in a strip that says so.
    assert points[points[:, 0] == 2.0][0, 1] > 7.0
    assert "never" in [text.get_text() for text in ax.texts]
    band = np.array(ax.collections[0].get_paths()[0].vertices)
    assert {2.0, 4.0} <= set(band[band[:, 0] == 1.0, 1])
    assert legends(figure) == ["median over seed", "quartiles"]
    assert ax.get_ylabel() == "Time [updates]"


def test_nothing_is_said_of_what_is_not_there():
    figure = draw(dataset([[1.0, 2.0], [3.0, 4.0]], a=[1.0, 2.0], b=[0.0, 1.0]), x="a", y="time", color="b")
    assert legends(figure) == ["0", "1"]
    assert not figure.axes[0].texts
    heat = draw(dataset([[1.0, 2.0], [3.0, 4.0]], a=[1.0, 2.0], b=[0.0, 1.0]), x="a", y="b", color="time")
    assert legends(heat) == []


@pytest.mark.parametrize(
    ("value", "log", "name"),
    [
        (NEVER, (), "never reached"),
        (NEVER, ("time",), "never reached"),
        (ZERO, ("time",), "zero"),
        (ZERO, (), None),
        (UNKNOWN, (), "no value"),
        (UNKNOWN, ("time",), "no value"),
    ],
)
def test_heat_maps_hatch_what_has_no_color(value, log, name):
    data = dataset([[1.0, 2.0], [3.0, value]], a=[1.0, 2.0], b=[0.0, 1.0])
    figure = draw(data, x="a", y="b", color="time", log=log)
    mesh = figure.axes[0].collections[0]
    assert np.ma.getmaskarray(np.ma.asarray(mesh.get_array())).sum() == (name is not None)
    assert legends(figure) == ([name] if name else [])
    assert len(figure.axes[0].collections) == 1 + (name is not None)


def test_a_lone_point_has_a_marker():
    times = np.full(50, NEVER)
    times[[7, 20, 21, 22]] = 3.0
    line = draw(dataset(times, a=range(50)), x="a", y="time").axes[0].lines[0]
    marked: Any = line.get_markevery()
    assert 7 in marked
    assert len(marked) < 4


def test_panels_share_one_scale():
    times = np.geomspace(1.0, 1e9, 24).reshape(2, 3, 4)
    data = dataset(times, c=[1, 2], b=[1.0, 2.0, 3.0], a=[1.0, 2.0, 3.0, 4.0])
    heat = draw(data, x="a", y="b", color="time", facet="c", log=["time"])
    norms = [ax.collections[0].norm for ax in heat.axes[:2]]
    assert {(norm.vmin, norm.vmax) for norm in norms} == {(1.0, 1e9)}
    assert [ax.get_title(loc="left") for ax in heat.axes[:2]] == ["(a)  C 1", "(b)  C 2"]
    lines = draw(data, x="a", y="time", color="b", facet="c", log=["time"])
    assert lines.axes[0].get_ylim() == lines.axes[1].get_ylim()
    assert [bool(ax.get_ylabel()) for ax in lines.axes] == [True, False]


def test_every_column_of_panels_names_its_axis():
    data = dataset(np.arange(1.0, 13.0).reshape(4, 3), c=range(4), a=[1.0, 2.0, 3.0])
    figure = draw(data, x="a", y="time", facet="c")
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [bool(ax.get_xlabel()) for ax in shown] == [False, True, True, True]


def test_labels_of_contours_do_not_overlap():
    a, b = np.linspace(0.0, 1.0, 40), np.linspace(0.0, 1.0, 30)
    times = 10.0 ** (60 * np.hypot(*np.meshgrid(a, b)))
    figure = draw(dataset(times, b=b, a=a), x="a", y="b", color="time", log=["time"], contours=30)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) > 4
    for k, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:k])
        panel = figure.axes[0].get_window_extent()
        assert panel.xmin < box.xmin < box.xmax < panel.xmax
        assert panel.ymin < box.ymin < box.ymax < panel.ymax
    assert all(text.get_text().startswith("$10^{") for text in figure.axes[0].texts)


def test_logarithmic_scales_are_of_positive_numbers():
    data = dataset([[0.0, 2.0], [3.0, 4.0]], a=[0.0, 2.0], b=["u", "v"])
    draw(data, x="a", y="time", log=["time"])
    for name, message in {
        "a": "a has values that are not positive",
        "b": "b has values that are not",
    }.items():
        with pytest.raises(ValueError, match=message):
            draw(data, x="a", y="b", color="time", log=[name])
    with pytest.raises(ValueError, match="time has values that are not positive"):
        draw(-data, x="a", y="time", log=["time"])


def test_a_file_is_the_same_again(tmp_path):
    store = tmp_path / "s"
    sweep("random", {"seed": "range:0:4", "error": [0.0, 1.0]}, ["entropy"], store=store)
    for suffix in ("png", "pdf"):
        files = [tmp_path / f"{name}.{suffix}" for name in ("first", "second")]
        for file in files:
            plot(store, file, x="seed", y="error", color="entropy")
        assert files[0].read_bytes() == files[1].read_bytes()
        plot(store, files[1], x="seed", y="entropy", color="error")
        assert files[0].read_bytes() != files[1].read_bytes()


def test_axes_are_in_order_and_lines_few_enough_to_tell_apart():
    times = np.arange(1.0, 61.0).reshape(3, 20)
    data = dataset(times, a=[3.0, 1.0, 2.0], b=range(20))
    figure = draw(data, x="a", y="time", color="b")
    assert len(legends(figure)) == 8
    assert figure.legends[0].get_title().get_text() == "B\n(8 of 20)"
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_data(), [[1.0, 2.0, 3.0], [21.0, 41.0, 1.0]])
    heat = draw(data, x="a", y="b", color="time").axes[0].collections[0].get_array()
    assert heat is not None
    np.testing.assert_array_equal(heat[0], [21.0, 41.0, 1.0])
