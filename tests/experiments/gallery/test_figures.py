"""What each figure and its caption claim is true of its data, on settings small enough for a test."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from goodteacher.experiments.batches import LEVEL
from goodteacher.experiments.datasets import table
from goodteacher.experiments.gallery.optimisers import learning_rates
from goodteacher.experiments.instances import beneficial_errors
from goodteacher.experiments.registry import find_experiment
from goodteacher.sim.ascent import ascend, optimizer
from goodteacher.sim.goals import probability_level
from goodteacher.sim.objective import gradient, natural_gradient


def run(name, **changes):
    """The data of an experiment, after what all experiments must satisfy."""
    experiment = find_experiment(name)
    settings = replace(experiment.settings, **changes)
    data = experiment.run(settings)
    for dataset in data.values():
        for variable in dataset.data_vars.values():
            assert {"units", "long_name"} <= variable.attrs.keys()
            assert set(variable.dims) == set(dataset.dims)
    assert len(table(data)) == sum(int(np.prod(list(d.sizes.values()))) for d in data.values())
    assert isinstance(experiment.figure(data, settings), Figure)
    return data, experiment.caption(data, settings)


def by_training(dataset):
    return [dataset.isel(run=dataset["trained_on"] == name) for name in ("ground_truth", "proxy")]


def rises(values):
    return bool((np.diff(values) >= -1e-12).all())


def crosses(flow, escape):
    """Whether each path is first at the level between the records around its escape time."""
    first = (flow["best_probability"] >= LEVEL).argmax("time").values
    times = flow["time"].values
    return np.all((times[first - 1] < escape["escape_time"]) & (escape["escape_time"] <= times[first]))


def test_beneficial_errors():
    data, caption = run("beneficial_errors", points=60)
    ascent, flow, escape = (by_training(data[panel]) for panel in ("ascent", "flow", "escape"))

    # Of the published program: 2.588e-4 on the ground truth and 0.99992 on the proxy from 0.05.
    end = [runs["best_probability"].isel(run=-1, updates=-1) for runs in ascent]
    assert abs(end[0] - 2.588e-4) < 5e-8
    assert abs(end[1] - 0.99992) < 5e-6
    assert "2.588e-04" in caption

    truth, proxy = (runs["escape_time"].values for runs in escape)
    np.testing.assert_allclose(truth[-2:], [3.36e4, 3.67e7], rtol=2e-3)
    assert rises(truth)
    assert rises(proxy)
    assert (proxy < truth / 10).all()
    assert "3.36e4 and 3.67e7" in caption

    # Under GRPO both are faster, and what the error gains is about the root of what it gained.
    clocked = [runs["escape_time"].values for runs in by_training(data["escape_under_grpo"])]
    assert (clocked[0] < truth).all()
    gained = [np.log(times[0][-1] / times[1][-1]) for times in ((truth, proxy), clocked)]
    assert abs(gained[1] / gained[0] - 0.5) < 0.02
    assert crosses(by_training(data["flow_under_grpo"])[0], by_training(data["escape_under_grpo"])[0])
    assert "(e) The same path under GRPO" in caption

    assert all(crosses(*pair) for pair in zip(flow, escape, strict=True))
    assert not crosses(flow[0], escape[1])
    assert all(rises(path) for path in flow[0]["expected_reward"])
    # The proxy is not what is measured: its runs first lose ground truth reward.
    assert not all(rises(path) for path in flow[1]["expected_reward"])
    assert (flow[0]["best_probability"].min("time") < flow[0]["initial_probability"] / 2).all()
    assert rises(flow[1]["best_probability"].values)


def test_feature_similarity():
    data, caption = run("feature_similarity", points=60)
    flow, escape = data["flow"], data["escape"]
    orthogonal, negative, positive = escape["escape_time"].values
    assert positive < orthogonal / 10 < np.inf
    assert negative == np.inf
    assert crosses(flow.isel(run=[0, 2]), escape.isel(run=[0, 2]))

    # Near the vertex of y_med the three low outputs fall like 1/(4 t) over their drop, and push y* down
    # (1 + 1.5 cos 45 degrees) times each.
    exponent = -0.75 * (1.0 + 1.5 * 0.5**0.5)
    np.testing.assert_allclose(escape["last_exponent"][1], exponent, rtol=1e-4)
    assert not np.isclose(escape["last_exponent"][0], exponent, rtol=1e-4)
    path = flow["best_probability"][1].values
    assert rises(-path[flow["time"] > 1.0])
    assert float(escape["best_probability"][1]) < path[-1] < 1e-10
    assert "never escapes" in caption
    assert all(rises(values) for values in flow["expected_reward"])


def test_stalling_law():
    starts = np.array([1e-3, 1e-4, 1e-5, 1e-6])
    data, caption = run("stalling_law", outputs=(3, 5, 8), initial_probabilities=tuple(starts))
    times, deviation = data["times"], data["deviation"]

    def follows(law):
        return bool((np.abs(times["ground_truth"] / law - 1.0) < 10 * starts).all())

    law, outputs = times["law"], times["outputs"]
    assert follows(law)
    assert not follows(1.1 * law)
    assert not follows(law * (outputs - 1) / outputs)
    assert not follows(law * times["initial_probability"] ** 0.001)
    assert not follows(times["proxy"])

    shrinks = deviation["deviation"].values[:, 1:] / deviation["deviation"].values[:, :-1]
    np.testing.assert_allclose(shrinks, 0.1, rtol=0.03)
    ratio = (deviation["deviation"] / deviation["next_order"]).values
    np.testing.assert_allclose(ratio, 1.0, rtol=0.02)

    exponents = data["exponents"]
    np.testing.assert_allclose(exponents["ground_truth"], outputs - 1, atol=1e-4)
    np.testing.assert_allclose(exponents["proxy"], 1.0, atol=1e-3)
    slope = np.diff(np.log(data["bound"]["published_rate"])) / np.diff(np.log(starts))
    np.testing.assert_allclose(slope, -14 / 13)
    grown = ", ".join(f"{value:.5f}" for value in exponents["ground_truth"].values)
    assert f"{grown} on the ground truth" in caption


def first_step(name, rate):
    instance = beneficial_errors()
    direction, transformation = optimizer(name, rate)
    moved = ascend(instance, transformation, 1, direction=direction).parameters
    return float(jnp.linalg.norm(moved - instance.initial_parameters))


def test_learning_rates_make_first_steps_equal():
    instance = beneficial_errors()
    rates = learning_rates(instance, 0.1)
    length = 0.1 * float(jnp.linalg.norm(gradient(instance, instance.initial_parameters)))
    steps = [first_step(name, rate) for name, rate in rates.items()]
    np.testing.assert_allclose(steps, length, rtol=1e-5)
    assert first_step("adam", 0.1) > 2 * length
    natural = jnp.linalg.norm(natural_gradient(instance, instance.initial_parameters))
    np.testing.assert_allclose(rates["npg"] * natural, length)


def test_adam_is_slowed_from_the_rarest_start_by_its_own_eps():
    instance = beneficial_errors(1e-8)
    goal = probability_level(instance, 0, LEVEL)
    usual, smaller = (
        ascend(instance, optax.adam(0.0214, eps=eps), 2000, goal=goal).first_update for eps in (1e-8, 1e-16)
    )
    assert usual is not None
    assert smaller is not None
    assert 2 * smaller < usual < np.inf


def test_optimisers():
    rare = (1e-4, 1e-6)
    data, caption = run("optimisers", initial_probability=0.1, initial_probabilities=rare, updates=20_000)
    escapes, ways = data["escape"]["updates"], data["ways"]
    common, rarer, rarest = (
        dict(zip(escapes["method"].values, escapes[:, k].values, strict=True)) for k in range(3)
    )
    np.testing.assert_allclose(common["gradient ascent"], common["gradient flow"], rtol=0.02)
    np.testing.assert_allclose(common["entropy bonus"], common["gradient flow with entropy bonus"], rtol=0.02)
    order = [
        "normalised gradient",
        "Adam",
        "natural gradient",
        "momentum",
        "entropy bonus",
        "gradient ascent",
    ]
    assert rises([common[name] for name in order])
    assert all(np.isinf(rarest[name]) for name in ("gradient ascent", "momentum", "entropy bonus"))
    assert f"gradient ascent {common['gradient ascent']:,.0f}, momentum {common['momentum']:,.0f}" in caption
    assert "not reached" not in caption

    # The flow's escape grows by a power, K - 1 = 4; the natural gradient's by ln(1/p) over the gap in reward.
    np.testing.assert_allclose(rarest["gradient flow"] / rarer["gradient flow"], 1e8, rtol=0.01)
    rate = float(data["learning_rates"]["learning_rate"].sel({"method": "natural gradient"}))
    np.testing.assert_allclose(
        rarest["natural gradient"] - rarer["natural gradient"], np.log(100) / (0.2 * rate), rtol=2e-3
    )
    assert rarest["Adam"] < 2 * common["Adam"]

    # A method's way crosses the level between the records around its count of updates.
    best, updates = ways["best_probability"], ways["updates"].values
    first = (best >= LEVEL).argmax("updates").values
    counts = np.array([common[name] for name in best["method"].values])
    assert np.all((updates[first - 1] < counts) & (counts <= updates[first]))
