"""Search for the instance on which a statement is tightest, or false."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from goodteacher.theory.formulas import Formula, nearest_false
from goodteacher.theory.statements import Statement, instance_of, plain

_CLIMBERS, _PROPOSALS = 20, 20  # points that are improved side by side, and tries for each at a time
_BATCH = _CLIMBERS * _PROPOSALS
_FIRST_BATCHES = 5  # of random points, of which the best start to climb
_FIRST_SPREAD, _LAST_SPREAD = 0.2, 1e-7  # of proposals about a climber, in the unit cube
_WIDEN, _NARROW = 1.6, 0.6  # of the spread, after success and after failure
_MOVED = 3.0  # coordinates that a proposal changes, about
_POOL, _OTHERS = 6_000, 1  # instances on which numbers are refuted, and what tells them from the seed's
_WITNESSES = 12  # of them that must refute a number, so that a few thousand others hold some that do
_GRADIENT_STEPS, _LEARNING_RATE = 300, 0.03
_EDGE = 1e-9  # points stay so far from the faces of the cube, where logarithms may end
_FARTHEST = 20.0  # log-odds of a coordinate


@dataclass(frozen=True)
class Finding:
    """What :func:`search` found.

    Attributes:
        statement: its name.
        evaluations: how many instances were examined, gradient steps included.
        seed: of the search.
        tightest_margin: the smallest found; ``nan`` if one could not be evaluated.
        tightest_sides: the smaller and the larger side there.
        point: the instance of that margin, as a point of the unit cube.
        instance: that instance itself.
        false: for each number of a formula the nearest values that a dozen instances of a sample refute by 5
        %.
    """

    statement: str
    evaluations: int
    seed: int
    tightest_margin: float
    tightest_sides: tuple[float, float]
    point: Float[Array, " dimension"]
    instance: Any
    false: Mapping[str, list[float]]

    @property
    def ok(self) -> bool:
        """Whether the statement holds there too."""
        return self.tightest_margin >= 0

    @property
    def factor(self) -> float:
        """How many times the larger side of a bound is the smaller one."""
        return float(10.0**self.tightest_margin)

    def to_dictionary(self) -> dict[str, Any]:
        """Plain values for a JSON file, see :func:`goodteacher.theory.statements.plain`."""
        return {
            "statement": self.statement,
            "ok": self.ok,
            "evaluations": self.evaluations,
            "seed": self.seed,
            "tightest_margin": plain(self.tightest_margin),
            "factor": plain(self.factor),
            "tightest_sides": plain(self.tightest_sides),
            "point": plain(self.point),
            "tightest_instance": plain(self.instance),
            "false": plain(self.false),
        }


def search(
    statement: Statement,
    evaluations: int,
    seed: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Finding:
    """Climbs towards the smallest margin of a statement.

    The best of many random points are improved side by side: along the gradient of the margin where it has
    one, then by random steps whose length adapts to their success. Climbers that no longer get anywhere start
    anew from random points.

    Args:
        statement: the statement.
        evaluations: how many instances may be examined; rounded up to whole batches.
        seed: of the search.
        progress: called with the instances examined and all of them, after every batch.

    Raises:
        ValueError: if the number of evaluations is not positive.
    """
    if evaluations < 1:
        raise ValueError(f"evaluations is {evaluations}; give at least 1")
    random = np.random.default_rng(seed)

    def scatter(count: int) -> np.ndarray:
        return random.uniform(_EDGE, 1.0 - _EDGE, (count, statement.dimension))

    points = scatter(_FIRST_BATCHES * _BATCH)
    margins = np.concatenate([_margins(statement, part) for part in np.split(points, _FIRST_BATCHES)])
    points = points[margins.argsort(kind="stable")[:_CLIMBERS]]
    examined = margins.size
    if statement.smooth:
        points = np.asarray(_descend(statement, jnp.asarray(points)))
        examined += _GRADIENT_STEPS * _CLIMBERS

    spread = np.full(_CLIMBERS, _FIRST_SPREAD)
    climbers = np.arange(_CLIMBERS)
    champion, record = points[0], np.inf
    while True:
        tried = _propose(random, points, spread)
        margins = _margins(statement, tried.reshape(-1, statement.dimension)).reshape(tried.shape[:2])
        examined += _BATCH
        chosen = margins.argmin(1)  # the first is the climber itself
        points, margins = tried[climbers, chosen], margins[climbers, chosen]
        if margins.min() <= record:
            champion, record = points[margins.argmin()], margins.min()
        if progress is not None:
            progress(min(examined, evaluations), evaluations)
        if record == -np.inf or examined >= evaluations:
            break
        spread = np.minimum(spread * np.where(chosen > 0, _WIDEN, _NARROW), _FIRST_SPREAD)
        stuck = spread < _LAST_SPREAD
        points = np.where(stuck[:, None], scatter(_CLIMBERS), points)
        spread = np.where(stuck, _FIRST_SPREAD, spread)

    # As many of it as were tried at a time: nothing is compiled for one.
    batch = statement.build(jnp.asarray(np.broadcast_to(champion, (_BATCH, champion.size))))
    smaller, larger = (float(np.asarray(side)[0]) for side in statement.claim(batch).sides[:2])
    return Finding(
        statement=statement.name,
        evaluations=examined,
        seed=seed,
        tightest_margin=float("nan") if record == -np.inf else float(record),
        tightest_sides=(smaller, larger),
        point=jnp.asarray(champion),
        instance=instance_of(batch, 0),
        false=_false(statement, champion, seed),
    )


def _false(statement: Statement, champion: np.ndarray, seed: int) -> dict[str, list[float]]:
    if not isinstance(statement.judge, Formula):
        return {}
    # Others than those that are verified on.
    key = jax.random.fold_in(jax.random.key(seed), _OTHERS)
    observed = statement.observe(statement.sample_near(champion, key, _POOL))
    return nearest_false(statement.judge, observed, _WITNESSES)


def _margins(statement: Statement, points: np.ndarray) -> np.ndarray:
    margins = np.asarray(statement.margin(statement.build(jnp.asarray(points))))
    return np.where(np.isnan(margins), -np.inf, margins)  # nothing is worse than what has no value


def _propose(random: np.random.Generator, points: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """``[climbers, proposals, dimension]``: each climber itself and steps from it, half of them sparse."""
    shape = (len(points), _PROPOSALS, points.shape[1])
    few = random.random(shape) < _MOVED / shape[2]
    moved = few | (random.random(shape[:2]) < 0.5)[..., None]
    step = np.where(moved, spread[:, None, None] * random.standard_normal(shape), 0.0)
    step[:, 0] = 0.0
    # Reflected at the faces of the cube, where the tightest instances may lie.
    folded = np.abs(points[:, None] + step) % 2.0
    return np.clip(np.where(folded > 1.0, 2.0 - folded, folded), _EDGE, 1.0 - _EDGE)


@partial(jax.jit, static_argnums=0)
def _descend(statement: Statement, points: Array) -> Array:
    """The lowest points on the way down the gradient of the margin, by Adam on the coordinates' log-odds."""
    adam = optax.adam(_LEARNING_RATE)

    def margins(odds: Array) -> tuple[Array, Array]:
        values = statement.margin(statement.build(jax.nn.sigmoid(odds)))
        return jnp.where(jnp.isfinite(values), values, 0.0).sum(), values

    def step(carry: Any, _: None) -> tuple[Any, None]:
        odds, state, lowest, least = carry
        (_, values), slope = jax.value_and_grad(margins, has_aux=True)(odds)
        lower = values < least
        lowest, least = jnp.where(lower[:, None], odds, lowest), jnp.where(lower, values, least)
        change, state = adam.update(jnp.where(jnp.isfinite(slope), slope, 0.0), state)
        return (jnp.clip(odds + change, -_FARTHEST, _FARTHEST), state, lowest, least), None

    odds = jax.scipy.special.logit(points)
    least = jnp.full(len(points), jnp.inf)
    (_, _, lowest, _), _ = jax.lax.scan(step, (odds, adam.init(odds), odds, least), length=_GRADIENT_STEPS)
    return jnp.clip(jax.nn.sigmoid(lowest), _EDGE, 1.0 - _EDGE)
