from functools import partial
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jaxtyping import Array
from scipy.integrate import solve_ivp
from sim_strategies import (
    beneficial_errors,
    integrated_path,
    integrated_time,
    random_data,
    random_tabular,
    stack,
)

from goodteacher.sim import flow, integrated
from goodteacher.sim.clocks import Grpo, Natural
from goodteacher.sim.files import from_dictionary
from goodteacher.sim.flow import (
    HORIZON,
    Control,
    HittingTime,
    final_policies,
    final_policy,
    hitting_time,
    hitting_times,
    policies,
    trajectories,
    trajectory,
)
from goodteacher.sim.goals import Goal, probability_level, reward_increase, reward_level
from goodteacher.sim.instance import Instance, Parameters, Regularizer
from goodteacher.sim.integrator import _hump, _Point, _State, prepare, run_many
from goodteacher.sim.objective import expected_reward, gradient, objective
from goodteacher.sim.policies import LinearSoftmax
from goodteacher.sim.status import Status

REACHED, NOT_REACHED, NOT_CONVERGED = Status.REACHED, Status.NOT_REACHED, Status.NOT_CONVERGED
NO_SIGNAL, OUT_OF_REACH, OPTIMUM = Status.NO_SIGNAL, Status.OUT_OF_REACH, Status.OPTIMUM


# Closed forms


def exact_time(outputs: int, gap: float, start: float, end: float) -> mpmath.mpf:
    """One good output of probability ``start``, the others alike, rewards ``gap`` apart: until ``end``."""

    def antiderivative(p: mpmath.mpf) -> mpmath.mpf:
        return -1 / p + 1 / (1 - p) + 2 * mpmath.log(p / (1 - p))

    rise = antiderivative(mpmath.mpf(end)) - antiderivative(mpmath.mpf(start))
    return mpmath.mpf(outputs - 1) / outputs * rise / gap


def one_good_output(outputs: int, start: float, width: int) -> Instance:
    """Rewards 1 and -1, in an array of ``width`` outputs of which only some exist."""
    exists = np.arange(width) < outputs
    rows = np.where(exists, (1 - start) / (outputs - 1), 0.5)
    rows[0] = start
    rewards = np.where(np.arange(width) == 0, 1.0, -1.0)
    return Instance(rewards, start=rows, mask=exists)


STARTS = (0.3, 1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12)


def reached_values(found: HittingTime, goals: Goal) -> np.ndarray:
    """The expectations where the integration says that the goals are met."""
    return np.asarray((jnp.exp(found.log_probabilities) * goals.values).sum(-1))


CASES = [(outputs, start) for outputs in (2, 3, 5, 8, 16, 64) for start in STARTS]


def closed_form_errors(end: float, rewards: float = 1.0) -> np.ndarray:
    """Relative errors of the hitting times, and by how much the reached probabilities miss ``end``."""
    instances = stack(*[one_good_output(*case, width=64) for case in CASES])
    instances = eqx.tree_at(lambda i: i.rewards, instances, replace_fn=lambda r: rewards * r)
    goals = jax.vmap(partial(probability_level, output=0, level=end))(instances)
    found = hitting_times(instances, goals)
    assert (found.status == REACHED).all()
    np.testing.assert_allclose(reached_values(found, goals), end, rtol=1e-13)
    with mpmath.workdps(50):
        exact = [exact_time(outputs, 2.0, start, end) for outputs, start in CASES]
        times = map(mpmath.mpf, found.time[:, 0].tolist())
        return np.array([abs(float(time / t - 1)) for time, t in zip(times, exact, strict=True)])


@pytest.mark.parametrize("end", [0.5, 0.9, 1 - 2.0**-20])
def test_hitting_times_are_the_closed_form(end):
    assert closed_form_errors(end).max() < 1e-9


def test_the_closed_form_check_catches_a_part_in_a_hundred_million():
    assert closed_form_errors(0.9, rewards=1 + 1e-8).min() > 5e-9


def test_the_closed_form_has_the_known_values():
    with mpmath.workdps(50):
        assert abs(exact_time(5, 2.0, 0.01, 0.9) - mpmath.mpf("48.585390693")) < 1e-9
        assert abs(exact_time(5, 2.0, 1e-12, 0.9) / mpmath.mpf("400000000027.018") - 1) < 1e-14


# Stalls


def stalling_law(initial_probability: float) -> float:
    """The time to leave the stall of the five published outputs, up to a relative O(initial_probability)."""
    rest = (0.5 - initial_probability) / 3
    return 0.5 * (1.8 * rest) ** 3 / (5 * 4 * 0.2**4 * initial_probability**4)


def test_stalls_last_as_long_as_the_law_says():
    """Out to 1e50 and beyond, for a probability or an expected reward alike."""
    starts = (1e-4, 1e-6, 1e-9, 1e-12, 1e-13)
    instances = stack(*[beneficial_errors(start) for start in starts])
    law = np.array([stalling_law(start) for start in starts])
    assert f"{law[1]:.4e}" == "4.2187e+23"
    for goals in (
        jax.vmap(partial(probability_level, output=0, level=0.5))(instances),
        jax.vmap(partial(reward_level, level=0.9))(instances),
    ):
        found = hitting_times(instances, goals)
        deviation = np.abs(np.asarray(found.time)[:, 0] / law - 1)
        assert (deviation < 10 * np.array(starts) + 1e-9).all()
        assert (found.steps < 500).all()


def test_published_stalls_end_when_reported():
    """The reported times; an initial probability off by 1e-4 of itself changes the fourth digit."""
    starts = (0.05, 0.01, 0.01 * 1.0001, 0.1, 0.15)
    instances = stack(*[beneficial_errors(start) for start in starts])
    goals = jax.vmap(partial(probability_level, output=0, level=0.9))(instances)
    times = hitting_times(instances, goals).time[:, 0].tolist()
    assert [f"{time:.4e}" for time in times[:2]] == ["3.3598e+04", "3.6738e+07"]
    assert f"{times[2]:.4e}" != "3.6738e+07"


# One and many


def test_one_and_many_agree():
    """Alone, under vmap, in fewer lanes than problems and in more."""
    instances = random_tabular(20, 4, seed=0, prompts=2)
    goals = jax.vmap(partial(reward_increase, gamma=0.05))(instances)
    cheap = Control(diffrax.Bosh3(), 1e-8)
    one = jax.jit(partial(hitting_time, control=cheap))
    many = partial(hitting_times, instances, goals, cheap)
    alone = [one(*jax.tree.map(lambda leaf, k=k: leaf[k], (instances, goals))) for k in range(20)]
    expected = stack(*alone)
    assert {*np.unique(expected.status).tolist()} == {REACHED, OPTIMUM}
    assert len(np.unique(expected.time)) > 10  # not all the same problem
    for found in (jax.vmap(one)(instances, goals), many(lanes=3), many(lanes=64)):
        np.testing.assert_array_equal(found.status, expected.status)
        for name in ("time", "end", "log_probabilities"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9)


def test_prompts_of_a_tabular_policy_are_independent():
    """Each reaches its own goal as if alone, but that its time is stretched by its weight."""
    data = random_data(0)
    together = from_dictionary(data)
    goal = reward_increase(together, 0.4, rewards=together.rewards)
    found = hitting_time(together, goal)
    assert (found.status == REACHED).all()
    weights = data["prompt_weights"] / data["prompt_weights"].sum()
    for prompt in range(3):
        rows = {k: v[prompt] for k, v in data.items() if k != "prompt_weights"}
        alone = from_dictionary(rows)
        time = hitting_time(alone, reward_increase(alone, 0.4, rewards=alone.rewards)).time[0]
        np.testing.assert_allclose(found.time[prompt], time / weights[prompt], rtol=1e-9)
    np.testing.assert_allclose(reached_values(found, goal), goal.level, rtol=1e-13)
    assert found.end == found.time.max()


@pytest.mark.parametrize("batched", [False, True])
def test_arrays_made_of_plain_numbers_compile_nothing_anew(monkeypatch, batched):
    """jnp.where(x, 1.0, 0.0) is weakly typed, which to jit is another type."""
    features = LinearSoftmax([[[1.0], [0.0], [-1.0]]])
    strong = Instance([1.0, 0.0, 0.0], start=Parameters([0.0]), policy=features)
    rewards = jnp.where(strong.rewards > 0, 1.0, 0.0)
    weak = eqx.tree_at(lambda i: i.rewards, strong, rewards)
    assert weak.rewards.weak_type
    assert not strong.rewards.weak_type
    assert not Instance(rewards).rewards.weak_type
    find, compiled = (hitting_times, integrated._many) if batched else (hitting_time, integrated._one)

    def compilations(instance: Instance) -> int:
        """Of the integrator, after a hitting time of this instance."""
        problem: Any = instance, Goal(instance.rewards, jnp.array([0.9]))
        if batched:
            problem = jax.tree.map(lambda leaf: leaf[None], problem)
        found = find(*problem, control=Control(diffrax.Bosh3(), 1e-3))
        assert jnp.isfinite(found.time).all()
        return compiled._cache_size()  # pyright: ignore[reportAttributeAccessIssue]

    before = compilations(strong)
    assert compilations(weak) == before
    monkeypatch.setattr(flow, "strongly_typed", lambda tree: tree)
    assert compilations(weak) == before + 1


# First crossings


class Path(NamedTuple):
    """A batch of flows on a fine grid of the distance travelled: an integrator of its own."""

    time: np.ndarray  # [points, batch]
    value: np.ndarray  # of the ground truth
    slope: np.ndarray  # by the distance


def fine_path(instances: Instance, distance: float = 30.0, step: float = 0.02) -> Path:
    """Classical Runge-Kutta of ``d theta / ds = grad / |grad|`` and of the time, in plain numpy."""
    proxy, truth, theta = (
        np.asarray(x)[:, 0]
        for x in (instances.rewards, instances.ground_truth_rewards, instances.initial_parameters)
    )

    def softmax(theta: np.ndarray) -> np.ndarray:
        p = np.exp(theta - theta.max(-1, keepdims=True))
        return p / p.sum(-1, keepdims=True)

    def field(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = softmax(theta)
        modal = np.take_along_axis(proxy, p.argmax(-1)[:, None], -1)
        relative = proxy - modal
        velocity = p * (relative - (p * relative).sum(-1, keepdims=True))
        speed = np.linalg.norm(velocity, axis=-1)
        return velocity / speed[:, None], 1 / speed

    time, points = np.zeros(len(theta)), []
    for _ in range(int(distance / step)):
        k1, t1 = field(theta)
        p = softmax(theta)
        value = (p * truth).sum(-1)
        points.append((time, value, (p * (truth - value[:, None]) * k1).sum(-1)))
        k2, t2 = field(theta + 0.5 * step * k1)
        k3, t3 = field(theta + 0.5 * step * k2)
        k4, t4 = field(theta + step * k3)
        theta = theta + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        time = time + step / 6 * (t1 + 2 * t2 + 2 * t3 + t4)
    return Path(*(np.stack(rows) for rows in zip(*points, strict=True)))


def highest(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """When (the grid point after it) and how high each value peaks, by cubic interpolation of the grid."""
    batch = np.arange(path.value.shape[1])
    top = path.value.argmax(0)
    left = np.clip(np.where(path.slope[top, batch] > 0, top, top - 1), 0, len(path.value) - 2)
    values = path.value[left, batch], path.value[left + 1, batch]
    slopes = 0.02 * path.slope[left, batch], 0.02 * path.slope[left + 1, batch]
    s = np.linspace(0, 1, 201)[:, None]
    cubic = (
        values[0] * (1 + 2 * s) * (1 - s) ** 2
        + values[1] * (3 - 2 * s) * s**2
        + slopes[0] * s * (1 - s) ** 2
        - slopes[1] * (1 - s) * s**2
    )
    return path.time[left + 1, batch], np.maximum(cubic.max(0), path.value.max(0))


def test_a_crossing_inside_a_step_is_not_missed():
    """The ground truth rises and falls under another proxy: levels close to its peak, from both sides."""
    instances = random_tabular(1500, 4, seed=7)
    path = fine_path(instances)
    peak_time, peak = highest(path)
    falls = peak - np.maximum(path.value[0], path.value[-1]) > 1e-3
    assert falls.sum() > 200
    below = (1e-3, 1e-5, 1e-8)
    chosen = jax.tree.map(lambda leaf: jnp.concatenate([leaf[falls]] * 4), instances)
    levels = np.concatenate([peak[falls] - delta for delta in (*below, -1e-7)])
    goals = jax.vmap(Goal)(chosen.ground_truth_rewards, jnp.asarray(levels)[:, None])
    found = hitting_times(chosen, goals, Control(horizon=1e30))
    count = len(below) * falls.sum()
    times = np.asarray(found.time)[:, 0]
    # Past the end of the path the ground truth may rise once more.
    assert (times[count:] > path.time[-1, falls]).all()
    times, levels = times[:count], levels[:count]
    assert (found.status[:count] == REACHED).all()
    np.testing.assert_allclose(reached_values(found, goals)[:count, 0], levels, atol=1e-13)
    earlier = np.tile(path.time[:, falls], len(below)) < times * (1 - 1e-6)
    assert (np.where(earlier, np.tile(path.value[:, falls], len(below)), -np.inf) < levels).all()
    assert (times <= np.tile(peak_time[falls], len(below))).all()


def test_the_policy_at_the_hitting_time_has_the_level():
    """On many problems, some of which lead root finding astray if it trusts an interpolation blindly."""
    instances = random_tabular(10_000, 8, seed=0)
    initial = jax.vmap(lambda i: expected_reward(i.probabilities(i.initial_parameters), i.rewards))(instances)
    part = np.random.default_rng(1).uniform(0.02, 0.999, initial.shape)
    levels = initial + part * (instances.rewards.max(-1) - initial)
    goals = jax.vmap(Goal)(instances.rewards, levels)
    found = hitting_times(instances, goals)
    assert (found.status == REACHED).all()
    np.testing.assert_allclose(reached_values(found, goals), levels, atol=1e-12)


def test_a_step_that_ends_on_a_peak_is_not_shortened_by_an_ulp_for_ever():
    """The level is long passed, and the expectation rises by nothing but rounding at the end of the step."""

    def peak(width: Array, slope: float) -> Array:
        def point(gap: float, slope: float) -> _Point:
            state = _State(jnp.zeros(0), jnp.zeros(()))
            return _Point(state, state, jnp.array([gap]), jnp.array([slope]))

        at, height = _hump(width, point(-0.8, 0.07), point(0.15, slope))
        return jnp.where(height[0] >= 0, at[0] / width, jnp.nan)

    widths = jnp.linspace(30.0, 50.0, 1001)
    flat = jax.vmap(partial(peak, slope=1e-23))(widths)
    assert not (flat > 1.0 - 1e-9).any()
    # A hump before the end is seen: the gap is above zero, below it, and above it again.
    steep = jax.vmap(partial(peak, slope=0.1))(widths)
    assert (steep[-20:] < 0.9).all()


# What becomes of a goal that is not met


def outcome(found: HittingTime) -> tuple[float, int]:
    return float(found.time[0]), int(found.status[0])


def test_the_horizon_is_where_it_is_said_to_be():
    instance = beneficial_errors()
    goal = probability_level(instance, 0, 0.9)
    time = float(hitting_time(instance, goal).time[0])
    short = hitting_time(instance, goal, Control(horizon=time * (1 - 1e-9)))
    assert outcome(short) == (np.inf, NOT_REACHED)
    np.testing.assert_allclose(short.end, time * (1 - 1e-9), rtol=1e-12)
    enough = hitting_time(instance, goal, Control(horizon=time * (1 + 1e-9)))
    assert enough.status[0] == REACHED
    np.testing.assert_allclose(enough.time[0], time, rtol=1e-12)


@pytest.mark.parametrize("level", [1.0, 1.5])
def test_a_level_that_no_policy_has_is_not_integrated_for(level):
    instance = beneficial_errors()
    found = hitting_time(instance, reward_level(instance, level))
    assert outcome(found) == (np.inf, OUT_OF_REACH)
    assert found.steps == 0


def test_a_level_that_is_met_at_the_start():
    instance = beneficial_errors()
    for goal in (reward_increase(instance, -1e-12), reward_level(instance, -0.5)):
        found = hitting_time(instance, goal)
        assert outcome(found) == (0.0, REACHED)
        assert found.steps == 0
    assert hitting_time(instance, reward_increase(instance, 0.0)).time < 1e-14


def test_steps_that_run_out_are_not_called_unreached():
    instance = beneficial_errors()
    found = integrated_time(instance, probability_level(instance, 0, 0.9), Control(max_steps=10))
    assert np.isnan(found.time[0])
    assert found.status[0] == NOT_CONVERGED
    assert found.steps == 10


def test_constant_rewards_move_nothing():
    instance = Instance(np.full(5, 0.3), [1.0, 0.8, -1.0, -1.0, -1.0], start=[0.05, 0.5, 0.15, 0.15, 0.15])
    assert outcome(hitting_time(instance, reward_increase(instance, 0.1))) == (np.inf, NO_SIGNAL)


def test_levels_about_the_optimum_of_a_regularized_objective():
    """The flow converges; what lies above its limit is never reached, and that is seen long before 1e60."""
    instance = beneficial_errors(regularizer=Regularizer(kl=0.5))
    rewards = np.asarray(instance.rewards[0])
    optimum = np.exp(instance.reference_log_probabilities[0]) * np.exp(rewards / 0.5)
    limit = (optimum * rewards).sum() / optimum.sum()
    above = hitting_time(instance, reward_level(instance, limit + 1e-4))
    assert outcome(above) == (np.inf, OPTIMUM)
    assert above.end < 1e6
    last, time = final_policy(instance)
    np.testing.assert_allclose(np.exp(last[0]), optimum / optimum.sum(), atol=1e-6)
    assert time == HORIZON
    below = hitting_time(instance, reward_level(instance, limit - 1e-4))
    assert below.status[0] == REACHED


def test_final_policies_of_a_batch_are_those_of_each():
    starts = (0.3, 0.05, 1e-3)
    instances = stack(*[beneficial_errors(start) for start in starts])
    horizons = np.array([1e3, 50.0, 20.0])
    found, times = final_policies(instances, Control(horizon=horizons), lanes=2)
    for start, horizon, log_p in zip(starts, horizons, found, strict=True):
        alone, _ = final_policy(beneficial_errors(start), Control(horizon=horizon))
        np.testing.assert_allclose(log_p, alone, atol=1e-9)
    np.testing.assert_array_equal(times, horizons)
    _, early = integrated.final_policies(instances, horizons, Control(max_steps=3), lanes=2)
    assert (early < horizons).all()
    inside = jax.eval_shape(lambda i: final_policies(i, Control(horizon=9.0), lanes=2), instances)
    assert [leaf.shape for leaf in inside] == [found.shape, times.shape]


def table(start):
    return Instance([1.0, 0.4, 0.0], start=[start, 0.6 - start, 0.4])


@pytest.mark.parametrize("build", [table, lambda p: table(p).following(Natural()), beneficial_errors])
def test_policies_at_times_are_those_at_each(build):
    starts = (0.3, 0.05)
    times = np.array([[1e3, 0.0, 2.0], [0.5, 20.0, 20.0]])
    found = policies(stack(*[build(start) for start in starts]), times)
    for start, own, paths in zip(starts, times, found, strict=True):
        for time, log_p in zip(own, paths, strict=True):
            alone, _ = final_policy(build(start), Control(horizon=max(time, 1e-300)))
            np.testing.assert_allclose(log_p, alone, atol=1e-9)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (np.ones((3, 1)), r"times has shape \[3, 1\]; give a row of times for each of 2 problems"),
        (np.array([[1.0], [-1.0]]), "times must be finite and not negative"),
        (np.array([[1.0], [np.inf]]), "times must be finite"),
    ],
)
def test_times_that_do_not_fit_are_refused(times, message):
    with pytest.raises(ValueError, match=message):
        policies(stack(table(0.1), table(0.2)), times)


def test_an_output_that_hardly_exists_does_not_blur_the_others():
    """Its logit of -1e15 is no scale for how precisely the others can be moved."""

    def times(logit):
        instance = Instance(
            [0.95, -0.2, 1.0, -0.2], [1.0, -1.0, -1.0, -1.0], start=Parameters([-0.6, -1.4, logit, -1.4])
        )
        return hitting_time(instance, reward_increase(instance, 1e-8)).time

    np.testing.assert_allclose(times(-1e15), times(-700.0), rtol=1e-9)
    assert times(-1e15) < 1e-6


def test_what_is_declared_unreachable_is():
    """The certificate of a tabular policy against an integration that goes on until it rests."""

    def build(key):
        of_rewards, of_truth, of_start, of_kl = jax.random.split(key, 4)
        rewards, truth = (jax.random.uniform(k, (2, 4), minval=-1.0) for k in (of_rewards, of_truth))
        coefficient = jnp.exp(jax.random.uniform(of_kl, minval=-1.5, maxval=1.5))
        start = jax.random.normal(of_start, (2, 4))
        return Instance(rewards, truth, start=Parameters(start), regularizer=Regularizer(kl=coefficient))

    instances = jax.vmap(build)(jax.random.split(jax.random.key(0), 200))
    assert instances.regularizer is not None
    strength = instances.regularizer.kl
    log_optimum = jax.nn.log_softmax(
        instances.reference_log_probabilities + instances.rewards / strength[:, None, None]
    )
    limit = expected_reward(jnp.exp(log_optimum), instances.ground_truth_rewards)
    offsets = np.random.default_rng(0).choice([-1e-2, -1e-5, 1e-5, 1e-2], limit.shape)
    goals = jax.vmap(lambda i, level: reward_level(i, level))(instances, limit + offsets)
    problems = jax.vmap(prepare, in_axes=(0, 0, None))(instances, goals, HORIZON)

    @jax.jit
    def follow(problems):
        done, *_ = run_many(problems, diffrax.Tsit5(), 1e-10, 2_000, 128)
        return jnp.isfinite(done.hit_log_time[:, :-1]), done.steps

    # A level above the limit may be passed on the way to it; then and only then is there a time.
    found, steps = follow(problems)
    expected, all_steps = follow(problems._replace(limit=None))
    np.testing.assert_array_equal(found, expected)
    assert steps.max() < 2_000
    assert steps.mean() < 0.7 * all_steps.mean()  # those to an optimum are few
    assert (~expected).sum() > 50
    assert (expected & (offsets > 0)).sum() > 50
    rash = eqx.tree_at(lambda p: p.limit.divergence, problems, replace_fn=lambda bound: 100.0 * bound)
    assert (follow(rash)[0] != expected).any()


RESTING = {
    "an interior optimum of shared features": Instance(
        [0.0, 1.0, 0.0], policy=LinearSoftmax([[[1.0], [0.0], [-1.0]]]), start=Parameters([2.0])
    ),
    "forward KL": Instance([1.0, 0.5, -1.0], start=[0.2, 0.3, 0.5], regularizer=Regularizer(forward_kl=0.3)),
    "entropy bonus": Instance([1.0, 0.5, -1.0], start=[0.2, 0.3, 0.5], regularizer=Regularizer(entropy=0.3)),
}


@pytest.mark.parametrize("name", RESTING)
def test_a_flow_that_has_come_to_rest_short_of_its_goal_never_reaches_it(name):
    found = hitting_time(RESTING[name], reward_level(RESTING[name], 0.99))
    assert outcome(found) == (np.inf, OPTIMUM)
    assert found.end < 1e6


def test_a_flow_that_only_seems_to_rest_is_not_taken_for_converged():
    """The last output would take over in the end, but is so rare now that nothing moves for 1e20."""
    instance = Instance(
        [0.0, -1.0, 1.0],
        start=[0.5, 0.5 - 1e-20, 1e-20],
        reference_policy_logits=[0.0, 0.0, 0.0],
        regularizer=Regularizer(kl=1.0),
    )
    found = hitting_time(instance, probability_level(instance, 2, 0.5))
    assert found.status[0] in (REACHED, NOT_CONVERGED)


def test_a_prompt_without_weight_never_moves():
    data = random_data(0)
    data["prompt_weights"] = [1.0, 0.0, 1.0]
    instance = from_dictionary(data)
    found = hitting_time(instance, reward_increase(instance, 0.1, rewards=instance.rewards))
    np.testing.assert_array_equal(found.status, [REACHED, NO_SIGNAL, REACHED])


# Derivatives


def test_derivative_of_the_hitting_time():
    """By everything in the problem, against central differences; each prompt has a time of its own."""
    data = random_data(1, 0.5, features=True, regularized=True)
    two: dict[str, Any] = {
        k: v[:2] if np.ndim(v) and k != "initial_policy_weights" else v for k, v in data.items()
    }
    two |= {"kl_coefficient": 0.05, "forward_kl_coefficient": 0.02, "entropy_coefficient": 0.03}
    instance = from_dictionary(two)
    goal = reward_increase(instance, [0.1, 0.05], rewards=instance.rewards)

    @jax.jit
    def total(problem: tuple[Instance, Goal]) -> Array:
        found = hitting_time(*problem, control=Control(solver=diffrax.Bosh3(), tolerance=1e-10))
        return (jnp.array([1.0, 0.5]) * found.time).sum()

    slopes = jax.tree.leaves(jax.grad(total)((instance, goal)))
    leaves, structure = jax.tree.flatten((instance, goal))
    rng = np.random.default_rng(0)
    for index, (leaf, slope) in enumerate(zip(leaves, slopes, strict=True)):
        direction = rng.normal(size=leaf.shape)

        def moved(step: float, index: int = index, direction: np.ndarray = direction) -> Array:
            changed = [*leaves[:index], leaves[index] + step * direction, *leaves[index + 1 :]]
            return total(jax.tree.unflatten(structure, changed))

        difference = (moved(1e-5) - moved(-1e-5)) / 2e-5
        np.testing.assert_allclose((slope * direction).sum(), difference, rtol=1e-5)
        # Only the ground truth and the level leave the time alone: this goal asks for an increase.
        idle = leaf is instance.ground_truth_rewards or leaf is goal.level
        assert (abs(difference) > 1e-3) == (not idle)


# Trajectories


def test_trajectory_is_the_closed_form():
    """Two outputs: ``4 t = F(z) - F(z(0))`` with the difference z of the logits and ``F = 2 sinh z + 2 z``.

    An error of each step of 1e-10 of a logit, the tolerance, leaves a few times 1e-9 at the most.
    """
    times = np.logspace(-3, 50, 54)
    starts = (-3.0, -8.0)
    instances = stack(*[Instance([1.0, -1.0], start=Parameters([z, 0.0])) for z in starts])
    theta = np.asarray(jax.jit(jax.vmap(lambda instance: trajectory(instance, times)))(instances))
    differences = theta[:, :, 0, 0] - theta[:, :, 0, 1]
    assert (differences[:, -1] > 100).all()
    with mpmath.workdps(80):
        for start, row in zip(starts, differences.tolist(), strict=True):
            for time, z in zip(times.tolist(), map(mpmath.mpf, row), strict=True):
                late = 2 * (mpmath.sinh(z) + z - mpmath.sinh(start) - start) - 4 * mpmath.mpf(time)
                assert abs(late / (2 * mpmath.cosh(z) + 2)) < 5e-9  # in logits


def test_a_problem_may_be_a_constant_of_what_is_compiled():
    """Its arrays are concrete there, but what JAX makes of them is traced."""
    instance = beneficial_errors(regularizer=Regularizer(kl=0.1)).following(Grpo())
    goal = reward_level(instance, 0.3, instance.rewards)

    def found(factor: float) -> tuple[Array, ...]:
        velocity = gradient(instance, instance.initial_parameters)
        later = trajectory(instance, [1.0, 2.0]), final_policy(instance, Control(horizon=3.0))[0]
        return factor * hitting_time(instance, goal).time, factor * velocity, *later

    for compiled, alone in zip(jax.jit(found)(2.0), found(2.0), strict=True):
        np.testing.assert_allclose(compiled, alone, rtol=1e-12)


def by_scipy(instance: Instance, times: np.ndarray) -> np.ndarray:
    """Parameters at given times, by an independent solver along time itself."""
    start = np.asarray(instance.initial_parameters)

    @jax.jit
    def velocity(time: float, parameters: Array) -> Array:
        return gradient(instance, parameters.reshape(start.shape)).ravel()

    once, every = np.unique(times, return_inverse=True)
    found = solve_ivp(
        velocity, (0.0, times[-1]), start.ravel(), "DOP853", once, rtol=1e-12, atol=1e-13, max_step=5.0
    )
    return found.y.T[every].reshape(len(times), *start.shape)


@pytest.mark.parametrize("kind", ["features", "regularized", "grpo"])
def test_integrated_trajectories_are_those_of_scipy(kind):
    """At times before the first step ends, within steps, twice the same, and after several hundred."""
    instance = from_dictionary(
        random_data(1, features=kind != "regularized", regularized=kind == "regularized")
    )
    if kind == "grpo":
        instance = instance.following(Grpo())
    times = np.array([0.0, 1e-9, 1e-3, 0.1, 0.5, 0.5, 3.0, 10.0, 11.0, 200.0])
    theta, expected = np.asarray(trajectory(instance, times)), by_scipy(instance, times)
    np.testing.assert_allclose(theta, expected, atol=1e-8)
    np.testing.assert_allclose(trajectory(instance, times, Control(tolerance=1e-5)), expected, atol=3e-5)
    assert (np.abs(theta[3:] - theta[0]).max(axis=tuple(range(1, theta.ndim))) > 1e-3).all()


def test_trajectory_is_where_the_hitting_time_says():
    """Past a stall of 1e8 units of time, whose steps along time would run out."""
    instance = Instance(
        [1.0, 0.5, -1.0, -0.7],
        start=Parameters([-16.0, 0.0, 0.0]),
        policy=LinearSoftmax([[[1.0, 0.3, 0.0], [0.3, 1.0, 0.0], [0.0, 0.3, 1.0], [0.1, 0.0, 0.8]]]),
    )
    goal = reward_level(instance, 0.9)
    found = hitting_time(instance, goal)
    assert found.status == REACHED
    assert found.time > 1e6
    theta = trajectory(instance, np.append(np.geomspace(1.0, 0.9 * found.time[0], 30), found.time))
    values = (jax.vmap(instance.probabilities)(theta) * goal.values).sum(-1)[:, 0]
    assert (np.diff(values) > 0).all()
    assert values[-1] == pytest.approx(0.9, abs=1e-8)
    np.testing.assert_allclose(instance.log_probabilities(theta[-1]), found.log_probabilities, atol=1e-7)


def test_regularised_trajectories_rest_at_the_optimum():
    """Two prompts with a KL term, one a thousand times as slow, to times of 1e30: the closed form."""
    rewards = np.array([[1.0, 0.2, -0.5], [-0.3, 0.9, 0.1]])
    start = np.array([[1e-6, 0.3, 0.7 - 1e-6], [0.2, 0.1, 0.7]])
    instance = Instance(rewards, start=start, regularizer=Regularizer(kl=0.05), prompt_weights=[1e-3, 1.0])
    theta = np.asarray(trajectory(instance, np.geomspace(1e-3, 1e30, 34)))
    expected = jax.nn.softmax(np.log(start) + rewards / 0.05)
    np.testing.assert_allclose(
        jax.nn.softmax(theta[-15:]), np.broadcast_to(expected, (15, 2, 3)), rtol=1e-6, atol=1e-13
    )
    assert np.isfinite(theta).all()


def test_derivatives_of_an_integrated_trajectory():
    """By the coefficient, a reward and a time, alone and compiled, against differences."""
    times, weights = jnp.array([0.5, 3.0, 20.0]), jnp.arange(18.0).reshape(3, 2, 3)
    data = random_tabular(2, 3, 5)

    def total(kl: Any, rewards: Any, times: Any) -> Array:
        start = Parameters(data.initial_parameters[:, 0])
        instance = Instance(rewards, start=start, regularizer=Regularizer(kl=kl))
        return (weights * trajectory(instance, times)).sum()

    at = (jnp.asarray(0.1), data.rewards[:, 0], times)
    slopes = jax.grad(total, (0, 1, 2))(*at)
    for compiled, alone in zip(jax.jit(jax.grad(total, (0, 1, 2)))(*at), slopes, strict=True):
        np.testing.assert_allclose(compiled, alone, rtol=1e-9)
    for place, index in ((0, ()), (1, (1, 2)), (2, (1,))):
        low, high = ([*at], [*at])
        low[place], high[place] = at[place].at[index].add(-1e-5), at[place].at[index].add(1e-5)
        difference = (total(*high) - total(*low)) / 2e-5
        assert float(slopes[place][index]) == pytest.approx(float(difference), rel=1e-5)


def test_what_the_flow_conserves_and_what_never_falls():
    """The sum of a tabular policy's logits; the objective, but not what it is not trained on."""
    instance = from_dictionary(random_data(1, regularized=True))
    theta = trajectory(instance, np.logspace(-2, 2, 41), Control(solver=diffrax.Tsit5()))
    start = jnp.broadcast_to(instance.initial_parameters.sum(-1), (41, 3))
    np.testing.assert_allclose(theta.sum(-1), start, atol=1e-11)
    assert jnp.abs(theta[-1] - instance.initial_parameters).max() > 1
    values = jax.vmap(objective, (None, 0))(instance, theta)
    assert (np.diff(values) >= -1e-14).all()
    truth = jax.vmap(lambda t: expected_reward(instance.probabilities(t), instance.ground_truth_rewards))(
        theta
    )
    assert np.diff(truth, axis=0).min() < -1e-6


def test_the_objective_rises_at_the_squared_norm_of_the_gradient():
    instance = from_dictionary(random_data(1, regularized=True))
    times = np.concatenate([[1 - 1e-4, 1.0, 1 + 1e-4], np.arange(2.0, 40.0)])
    theta = trajectory(instance, times, Control(solver=diffrax.Tsit5()))
    before, _, after = jax.vmap(objective, (None, 0))(instance, theta[:3])
    rate = (after - before) / 2e-4
    np.testing.assert_allclose(rate, (gradient(instance, theta[1]) ** 2).sum(), rtol=1e-6)


def regularised(count: int) -> Instance:
    """Problems of two prompts that settle at optima, some long after others."""
    rng = np.random.default_rng(5)
    make = jax.vmap(lambda r, z, s: Instance(r, start=Parameters(z), regularizer=Regularizer(kl=s)))
    rewards, starts = rng.uniform(-1, 1, (count, 2, 3)), rng.normal(size=(count, 2, 3))
    return make(rewards, starts, np.geomspace(1e-2, 1.0, count))


def test_trajectories_are_those_of_each():
    """In any order of their numbers, and with stiff ones among them, which take implicit steps."""
    instances, times = regularised(3), np.array([[0.0, 1.0, 1e9], [0.5, 7.0, 7.0], [0.1, 30.0, 1e3]])
    found = trajectories(instances, times)
    logs = policies(instances, times[:, ::-1])
    for number in range(3):
        alone = jax.tree.map(lambda leaf, n=number: leaf[n], instances)
        path = trajectory(alone, times[number])
        np.testing.assert_allclose(found[number], path, atol=1e-9)
        expected = jax.vmap(alone.log_probabilities)(path)
        np.testing.assert_allclose(logs[number, ::-1], expected, atol=1e-9)
    optimum = jax.nn.log_softmax(instances.initial_parameters[2] + instances.rewards[2])  # of a strength of 1
    np.testing.assert_allclose(logs[2, 0], optimum, atol=1e-8)


def test_more_trajectories_than_go_together():
    instances = regularised(integrated._TOGETHER + 3)
    times = np.linspace(0.1, 2.0, 2 * len(instances.rewards)).reshape(-1, 2)
    found = trajectories(instances, times)
    few = [0, integrated._TOGETHER - 1, integrated._TOGETHER, len(times) - 1]
    expected = trajectories(jax.tree.map(lambda leaf: leaf[np.array(few)], instances), times[few])
    np.testing.assert_allclose(found[np.array(few)], expected, atol=1e-12)


@pytest.mark.parametrize("times", [[[1.0, 2.0]], [[2.0, 1.0], [1.0, 2.0]], [[-1.0, 1.0], [1.0, 2.0]]])
def test_trajectories_need_ascending_times_of_each(times):
    with pytest.raises(ValueError, match="times"):
        trajectories(regularised(2), np.array(times))


def test_steps_that_run_out_leave_the_trajectory_nan():
    control = Control(solver=diffrax.Tsit5(), max_steps=5)
    path = integrated_path(beneficial_errors(), np.array([1e-3, 1e6]), control)
    assert jnp.isfinite(path[0]).all()
    assert jnp.isnan(path[1]).all()


# Bad input


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ({"tolerance": 0.0}, "tolerance is 0.0; give a positive, finite number"),
        ({"tolerance": -1e-9}, "tolerance is -1e-09; give a positive, finite number"),
        ({"horizon": -1.0}, "horizon is -1.0; give a positive, finite number"),
        ({"horizon": float("inf")}, "horizon is inf; give a positive, finite number"),
        ({"horizon": float("nan")}, "horizon is nan; give a positive, finite number"),
        ({"max_steps": 0}, "max_steps is 0; give a positive, finite number"),
    ],
)
def test_bad_control_is_refused(control, message):
    with pytest.raises(ValueError, match=message):
        Control(**control)


def test_an_implicit_solver_is_refused():
    instance = beneficial_errors(regularizer=Regularizer(kl=0.1))
    with pytest.raises(ValueError, match="solver is Kvaerno5; give an explicit Runge-Kutta method"):
        hitting_time(instance, reward_level(instance, 0.5), Control(diffrax.Kvaerno5()))
    with pytest.raises(ValueError, match="solver is Kvaerno5; give an explicit Runge-Kutta method"):
        trajectory(instance, [1.0], Control(diffrax.Kvaerno5()))


def test_a_number_of_horizons_that_does_not_fit_is_refused():
    instances = stack(beneficial_errors(), beneficial_errors())
    with pytest.raises(ValueError, match=r"horizon has shape \[3\]; give one number, or 2"):
        final_policies(instances, Control(horizon=[1.0, 2.0, 3.0]))


def test_no_lane_and_no_problem_are_refused():
    instances = stack(beneficial_errors())
    goals = jax.vmap(partial(reward_level, level=0.5))(instances)
    with pytest.raises(ValueError, match="lanes is 0; give at least 1"):
        hitting_times(instances, goals, lanes=0)
    with pytest.raises(ValueError, match="instances holds no problem; give at least one"):
        hitting_times(*jax.tree.map(lambda leaf: leaf[:0], (instances, goals)))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([], r"times has shape \[0\]; give a list of at least one time"),
        ([[1.0, 2.0]], r"times has shape \[1, 2\]; give a list"),
        ([2.0, 1.0], "times must be ascending"),
        ([-1.0, 1.0], "times must be finite and not negative"),
        ([1.0, float("nan")], "times must be finite and not negative"),
        ([1.0, float("inf")], "times must be finite and not negative"),
    ],
)
def test_bad_times_are_refused(times, message):
    with pytest.raises(ValueError, match=message):
        trajectory(beneficial_errors(), times)
    with pytest.raises(ValueError, match=r"tolerance is 0\.0"):
        trajectory(beneficial_errors(), [1.0], Control(tolerance=0.0))
