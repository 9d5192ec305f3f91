"""The six published runs from one sample per update, 200 seeds each, against loops in NumPy."""

import time

import jax
import numpy as np
import optax

from benchmarks.ascent import RATE, UPDATES, six_runs
from benchmarks.timing import table, timed
from goodteacher.sim.instance import Instance
from goodteacher.sim.learning import learn

SEEDS = 200
_SGD = optax.sgd(RATE)
_FEWER = 200  # updates of the loops, whose time per update does not change


@jax.jit
def on_the_device(instances: Instance, keys: jax.Array) -> dict[str, jax.Array]:
    """All learners at once, recorded as published."""
    records = np.arange(999, UPDATES, 1000)
    metrics = ("probabilities", "expected_ground_truth_reward")

    def one(instance: Instance, key: jax.Array) -> dict[str, jax.Array]:
        return learn(instance, key, "reinforce", 1, _SGD, records, metrics=metrics).records

    return jax.vmap(jax.vmap(one, in_axes=(None, 0)))(instances, keys)


def in_numpy(instances: Instance, learners: int, updates: int) -> float:
    """Seconds of a Python loop over updates, of ``[learners, outputs]`` at a time for each run."""
    rng = np.random.default_rng(0)
    rewards = np.asarray(instances.rewards)[:, 0]
    theta = np.repeat(np.asarray(instances.initial_parameters), learners, axis=1)
    run, learner = np.indices(theta.shape[:2])
    start = time.perf_counter()
    for _ in range(updates):
        p = np.exp(theta)
        p /= p.sum(-1, keepdims=True)
        drawn = (rng.random(theta.shape[:2])[..., None] >= p.cumsum(-1)[..., :-1]).sum(-1)
        step = -p
        step[run, learner, drawn] += 1.0
        theta += RATE * rewards[run, drawn][..., None] * step
    return time.perf_counter() - start


def main() -> None:
    """Prints the table."""
    six = six_runs()
    keys = jax.random.split(jax.random.key(0), (6, SEEDS))
    ours = timed(lambda: on_the_device(six, keys), repeats=3)
    all_at_once = in_numpy(six, SEEDS, _FEWER) * UPDATES / _FEWER
    one_by_one = in_numpy(six, 1, _FEWER) * UPDATES / _FEWER * SEEDS

    def row(name: str, cold: float | str, warm: float) -> tuple[str, float | str, float, str, float]:
        return name, cold, warm, f"{6 * SEEDS * UPDATES / warm:,.0f}", warm / ours.warm

    table(
        f"{UPDATES:,} updates with one sample each, 6 runs x {SEEDS} learners (seconds)",
        ("", "cold", "warm", "sampled updates per second", "over the first"),
        [
            row("on the device, vmapped", ours.cold, ours.warm),
            row(f"NumPy, all learners at once (from {_FEWER} updates)", "", all_at_once),
            row(f"NumPy, one learner of each run at a time (from {_FEWER})", "", one_by_one),
        ],
    )
