"""Lines of ``sim`` that ``make mutate`` alters one at a time, and mutants that survive for a reason."""

from typing import NamedTuple


class Line(NamedTuple):
    """One alteration.

    Attributes:
        path: of the file, from the root of the checkout.
        old: what stands there, once.
        new: what is put in its place.
        tests: files of ``tests/sim``, any of which is to notice, the likeliest first.
    """

    path: str
    old: str
    new: str
    tests: tuple[str, ...]


def _in(path: str, tests: str, *pairs: tuple[str, str]) -> tuple[Line, ...]:
    return tuple(Line(f"sim/{path}.py", old, new, tuple(tests.split())) for old, new in pairs)


LINES = (
    *_in(
        "objective",
        "test_objective test_regularized_flow",
        ("jax.lax.stop_gradient(of_modal(probabilities, rewards))", "of_modal(probabilities, rewards)"),
        ("relative = rewards - jax.lax.stop_gradient", "relative = rewards - 0.5 * jax.lax.stop_gradient"),
        ("== probabilities.argmax(-1", "== probabilities.argmin(-1"),
        ("        -instance.regularizer.kl * kl_d", "        -0.99 * instance.regularizer.kl * kl_d"),
        ("kl_divergence(log_reference, log_p)", "kl_divergence(log_p, log_reference)"),
        (
            "+ instance.regularizer.entropy * entropy(log_p)",
            "- instance.regularizer.entropy * entropy(log_p)",
        ),
        ("return (instance.prompt_weights * value).sum()", "return value.mean()"),
        ("        - instance.regularizer.kl * log_ratio\n", ""),
        ("instance.regularizer.entropy * _log_ratio(log_p, jnp.zeros_like(log_p))\n    )", "0.0\n    )"),
        ("forward_kl * (reference - probabilities)\n    return", "forward_kl * (probabilities)\n    return"),
        (
            "return instance.prompt_weights[:, None] * gradient",
            "return gradient / len(instance.prompt_weights)",
        ),
        ("strength * (ratio - 1.0), 0.0)", "0.9 * strength * (ratio - 1.0), 0.0)"),
        ("advantages.mean(-1, keepdims=True, where=valid)", "advantages.mean(-1, keepdims=True)"),
        ("& (instance.prompt_weights[:, None] > 0)", ""),
        ("_FISHER_FLOOR = 1e-12", "_FISHER_FLOOR = 1e-6"),
        ("little = jnp.abs(change).max(-1, keepdims=True) < 1.0", "little = change.max() < -1.0"),
        ("small = change - jnp.log1p(", "small = change + jnp.log1p("),
    ),
    *_in(
        "metrics",
        "test_metrics test_ranking_metrics",
        (
            "(probabilities * advantage(probabilities, rewards) ** 2)",
            "(advantage(probabilities, rewards) ** 2)",
        ),
        ("return 0.5 * (weight * difference**2)", "return (weight * difference**2)"),
        ("((r < rewards) == (g < truth))", "((r <= rewards) == (g <= truth))"),
        ("& ((r < rewards) == (g < truth))", ""),
        ("jnp.where(jnp.arange(rewards.shape[-1]) == output, 0.0,", "jnp.where(False, 0.0,"),
        ("decided = ground_truth_rewards[..., output, None] != ", "decided = 2.0 != 0.0 * "),
        ("weights = exists.astype(float), jnp.exp(logs", "weights = jnp.ones(logs.shape), jnp.exp(logs"),
        ("judged = correct, correct | harmless", "judged = correct, harmless"),
        ("(correct | ~mask).all(1), (harmless | ~mask)", "correct.all(1), (harmless | ~mask)"),
        (
            "mask, comparisons.dispreferred_log_probabilities, 0.0",
            "True, comparisons.dispreferred_log_probabilities, 0.0",
        ),
        (
            "dispreferred_rewards < comparisons.expected_rewards",
            "dispreferred_rewards <= comparisons.expected_rewards",
        ),
        ("preferred_rewards[:, None] > comparisons", "preferred_rewards[:, None] >= comparisons"),
        ("means = instance.rewards - advantage", "means = instance.rewards - 0.0 * advantage"),
        ("worse = exists & (truth < truth.max(", "worse = exists & (truth <= truth.max("),
    ),
    *_in(
        "sampling",
        "test_sampling test_sampled_learning test_sampled_clocks",
        ("rewards.size / (rewards.size - 1.0)", "1.0"),
        ("(group / (group - 1))", "((group + 1) / group)"),
        (
            "variance = (centered**2).mean(-1, keepdims=True)",
            "variance = (centered**2).sum(-1, keepdims=True) / (rewards.shape[-1] - 1)",
        ),
        ("relative = rewards - rewards[..., :1]", "relative = rewards"),
        (">= cumulative[..., :-1]", "> cumulative[..., :-1]"),
        ("* cumulative[..., -1:]", ""),
        ("(log_p - log_reference) + regularizer.entropy * log_p", "(log_p - log_reference)"),
        ("estimate -= weights.mean(-1, keepdims=True) * probabilities", "estimate -= 0.0"),
        ("estimate += regularizer.forward_kl * (reference - probabilities)", "estimate += 0.0"),
        ("return instance.prompt_weights[:, None] * estimate", "return estimate / len(estimate)"),
        ("probabilities / jnp.where(present, mass, 1.0)[group] * chosen", "chosen"),
        ("complement < 0.5, near_one", "complement < 0.0, near_one"),
    ),
    *_in(
        "clocks",
        "test_batch_scaling",
        ("(weights * means).sum(-1, keepdims=True)) ** 2", "means.mean(-1, keepdims=True)) ** 2"),
        ("(weights * (variances + between)).sum(-1)", "(weights * variances).sum(-1)"),
        ("1.0) + self.epsilon)", "1.0) + 1.1 * self.epsilon)"),
    ),
    *_in(
        "batch_scaling",
        "test_batch_scaling",
        ("variances += (p *", "variances -= (p *"),
        ("within, lost = reached & (times <= horizons)", "within, lost = reached & (times < np.inf)"),
        ("np.where(within, times, np.where(late, horizons, 0.0))", "np.where(within, times, horizons)"),
        ("_END = 1e-9", "_END = 1e-3"),
        ("+ epsilon[owner, None]", "+ 1.1 * epsilon[owner, None]"),
        ("np.where(np.arange(len(low)) % 2 == 1, length, 0.0)", "0.0"),
    ),
    *_in(
        "several_rewards",
        "test_several_rewards",
        ("variance, 1.0)) + epsilon)", "variance, 1.0)))"),
        ("variance = (p * above**2).sum()", "variance = (above**2).mean()"),
        ("return weights @ jax.vmap", "return weights**2 @ jax.vmap"),
        ("rate * jnp.exp(log_p) * advantages(", "rate * advantages("),
        ("estimate = jnp.tensordot(self.weights,", "estimate = jnp.tensordot(self.weights**2,"),
        ("return jnp.tensordot(self.weights, means, 1)", "return means.mean(0)"),
    ),
    *_in(
        "ascent",
        "test_ascent",
        ("max_backtracking_steps=30", "max_backtracking_steps=10"),
        ("max_learning_rate=learning_rate)", "max_learning_rate=learning_rate, slope_rtol=0.3)"),
        ("momentum=0.9", "momentum=0.91"),
        ("look(count + 1.0, parameters, first)", "look(count, parameters, first)"),
        ("look(jnp.zeros(()), start, unmet)", "unmet"),
        ("(value >= goal.level)", "(value > goal.level + 1e-3)"),
        ("jnp.isinf(first) & (value", "(value"),
        ("counts[0] < 0 or", ""),
        ("_SMALLEST_NORM = 1e-150", "_SMALLEST_NORM = 1e-3"),
    ),
    *_in(
        "learning",
        "test_sampled_learning",
        ("uniforms[count - index * length]", "uniforms[(count - index * length) // 2]"),
        ("jnp.minimum(last, (index + 1) * length)", "jnp.minimum(last, (index + 1) * length - 1)"),
        ("transformation.update(-estimate", "transformation.update(estimate"),
    ),
    *_in(
        "goals",
        "test_goals test_small_increases test_flow",
        (
            "expected_reward(initial, goal.values) + goal.level",
            "expected_reward(initial, goal.values) + 1.01 * goal.level",
        ),
        ("ratio = jnp.expm1(jnp.clip(change, -1.0, 1.0))", "ratio = jnp.clip(change, -1.0, 1.0)"),
        ("small = initial * (ratio - mean) / (1.0 + mean)", "small = initial * (ratio - mean)"),
        ("return goal.level < largest_value", "return goal.level <= largest_value"),
        ("values = xp.where(instance.mask, values, -xp.inf)", "pass"),
    ),
    *_in(
        "policies",
        "test_policies test_objective",
        (
            "return spectral_norms(self.features / self.temperature)[:, None]",
            "return spectral_norms(self.features)[:, None]",
        ),
        ("return self.features @ parameters / self.temperature", "return self.features @ parameters"),
        ("scale = jnp.sqrt(weights)", "scale = weights"),
        ("RANK_TOLERANCE = 1e-10", "RANK_TOLERANCE = 1e-2"),
        ("_GAUSS_NODE = math.sqrt(3.0) / 6.0", "_GAUSS_NODE = 0.5"),
        ("_LITTLE = 1e-3", "_LITTLE = 0.0"),
    ),
    *_in(
        "autoregressive",
        "test_autoregressive",
        ("np.cumsum(counts)[:-1], axis=1)", "np.cumsum(counts)[:-1] + 1, axis=1)"),
        ("return (after - after.mean(-1, keepdims=True)).ravel()", "return after.ravel()"),
    ),
    *_in(
        "integrator",
        "test_regularized_flow test_saddles test_flow",
        ("_AT_REST = 1e-10", "_AT_REST = 1e-7"),
        ("_CAREFUL = 0.1", "_CAREFUL = 1.0"),
        ("jnp.where(pending[:-1], missed, 0.0).max()", "0.0 * jnp.where(pending[:-1], missed, 0.0).max()"),
        ("(pull * error).sum(-1)) / (tolerance", "(pull * error).sum(-1)) / (1e3 * tolerance"),
        ("rests = ~_finished(end).lost & (end.steps < max_steps)", "rests = ~_finished(end).lost"),
        (
            "moved = state.displacement + jnp.expand_dims(change, axes) * velocity.displacement",
            "moved = state.displacement",
        ),
        ("_DRAWS = 4", "_DRAWS = 1"),
        ("lost = _lost(lane) | lane.pace.grows", "lost = _lost(lane)"),
    ),
    *_in(
        "steppers",
        "test_steppers test_regularized_flow",
        ("- tableau.fsal", "- 0 * tableau.fsal"),
        ("step * tableau.b_error[stages:]", "0.0 * tableau.b_error[stages:]"),
        ("/ (ratio - 1.0)", "/ ratio"),
        ("_EULER_STEPS = (1, 2, 3, 5, 8, 13)", "_EULER_STEPS = (1, 2, 3, 4, 5, 6)"),
    ),
    *_in(
        "batching",
        "test_batching",
        (
            "wider(instance.reference_log_probabilities, -np.inf)",
            "wider(instance.reference_log_probabilities)",
        ),
        ("(np.arange(size) >= count)", "(np.arange(size) > count)"),
        ("_FEW = 8, 64, 512", "_FEW = (1, 2, 4, 8)"),
    ),
    *_in(
        "optima",
        "test_regularized_flow test_saddles test_flow",
        ("_CONVERGED = 1e-6", "_CONVERGED = 1e-2"),
        ("return divergence + _DIVERGENCE_ROUNDING <", "return divergence - 1e-3 <"),
        ("(strength > 0) & (regularizer.forward_kl == 0)", "strength > 0"),
        ("strength = regularizer.kl + regularizer.entropy", "strength = regularizer.kl"),
        ("_DEPARTS = 1e-9", "_DEPARTS = 1.5"),
    ),
    *_in(
        "integrated",
        "test_regularized_flow test_saddles test_flow",
        ("return (pull != 0).any(-1)", "return (pull == pull).any(-1)"),
        ("~is_possible(instance, goal),", "is_possible(instance, goal) & False,"),
    ),
    *_in(
        "quadrature",
        "test_quadrature test_solved",
        ("_NODES = ((6, 40), (8, 48), (16, 56), (32, 72), (64, 100))", "_NODES = ((64, 40),)"),
        ("_MOST_NODES = 160", "_MOST_NODES = 40"),
        ("_GRADING = 4.0", "_GRADING = 1.0"),
        ("xp.where(extra == 2, -1.0, 1.0), 0.0)", "1.0, 0.0)"),
        ("xp.where(xp.isnan(spent), xp.inf, spent)", "spent"),
        ("late & (power * before < length)", "late"),
        ("(extra == 1) & ~to.close", "(extra == 1) & to.late"),
    ),
    *_in("quadrature", "test_clocks", ("item[~done], number[~done]", "item[~done], number[done]")),
    *_in(
        "positions",
        "test_positions",
        ("from_start = since <= before", "from_start = whole.sign > 0"),
        ("walk.half + past.sum(0)", "walk.half + past.any(0)"),
        ("way.step > close", "way.step > 1e-2"),
        ("length * slope / rate - growth", "-length * slope / rate - growth"),
        ("_CUBIC = 1e-5", "_CUBIC = 1e-4"),
        ("xp.where(length >= known, more, -more)", "more"),
        ("(way.known <= 2.0 * length)", "(way.known > 0.0)"),
    ),
    *_in(
        "shortcut",
        "test_shortcut",
        ("_MOST_STEP = 1e-2", "_MOST_STEP = 1e9"),
        ("_Trial(z, log_product, move)", "_Trial(z, log_product, z - trial.z)"),
        ("here.faster / corner.scale", "here.faster"),
    ),
    *_in(
        "loops",
        "test_shortcut test_clocks",
        ("if places is None else places[waits]", ""),
        ("copied[..., places] = new", "copied[..., : len(places)] = new"),
    ),
    *_in(
        "crossings",
        "test_solved test_small_increases test_itineraries test_precision",
        ("_SMALL = 1e-3", "_SMALL = 5.0"),
        ("hidden = ~certain & small & (odds.log < 0)", "hidden = ~certain & small & (odds.log < -1e9)"),
        ("certain = most < (below", "certain = 0.5 * most < (below"),
        ("* way**2 / 8.0", "* way**2 / 8e3"),
        ("(modal > 0) & (flow.breakpoints < np.inf)", "(modal > 9) & (flow.breakpoints < np.inf)"),
        ("ended=~(sought & (unit > 0))", "ended=~sought"),
        ("beyond = (below & (z >= far))", "beyond = (below & (z >= 2.0 * far))"),
        ("(holding / at.x).sum(0) - leading / nearest", "(holding / at.x).sum(0) - 2.0 * leading / nearest"),
        ("best & (at.x <= nearest), below", "best, below"),
        ("passed & (so_far.half == 2 * last) & forever", "passed & forever"),
        ("_LINEAR_STEPS = 6", "_LINEAR_STEPS = 1"),
    ),
    *_in(
        "lines",
        "test_solved test_quadrature test_itineraries test_precision",
        ("_RAREST = -700.0", "_RAREST = -70.0"),
        ("_TOGETHER = 1000 ", "_TOGETHER = 10000 "),
        ("closer = xp.abs(over_old) < xp.abs(over_new)", "closer = xp.abs(over_old) > xp.abs(over_new)"),
        ("_CLOSE = 1e-4", "_CLOSE = 1e-2"),
        ("bend = 0.5 * at.excess", "bend = 0.0 * at.excess"),
    ),
    *_in(
        "sensitivities",
        "test_solved",
        ("excess = excess - fixed(excess)", "excess = 0.0 * excess"),
        ("rate + gap * centre", "rate"),
    ),
    *_in(
        "separation",
        "test_solved",
        ("(masses, shared.first, -1) - xp.log(shared.same.sum(-1) * 1.0)", "(masses, shared.first, -1)"),
        ("logits = logits + xp.log(shared.same.sum(-1) * 1.0)", "logits = logits + 0.0"),
        ("weight * shared.largest /", "weight /"),
    ),
    *_in(
        "solved",
        "test_solved",
        ("goals, together(goals.values, shared))", "goals, goals.values)"),
    ),
    *_in(
        "solved",
        "test_shortcut",
        ("met.certain & problems.trained &", "met.certain &"),
        ("done + jnp.arange(block) < left", "done + jnp.arange(block) < left - 1"),
    ),
)

_FILL = "stands for a number that there is none of; what comes of it is masked"

EXPLAINED: dict[str, str] = {
    "theory/clock_laws.py::enumerated_rate 1: 1.0 times 1.1": _FILL,
    "theory/clock_laws.py::fixed_point_log_odds 8: '-p[0]' without its sign": (
        "clocks see advantages by their squares"
    ),
    "theory/clock_laws.py::fixed_point_log_odds 16: 1.0 times 1.1": "a wider bracket around the same root",
    "theory/clock_laws.py::fixed_point_log_odds 17: 100.0 times 1.1": "a wider bracket around the same root",
    "theory/feature_geometry_law.py::log_stalling_time 11: 1.0 times 1.1": _FILL,
    "theory/feature_geometry_law.py::log_stalling_time 17: 1.0 times 1.1": _FILL,
    "theory/hitting_time_bound.py::_moves_like_a_table 1: 1e-12 times 1.1": (
        "rounding up to which features count as orthonormal"
    ),
    "theory/pairs.py::variance_by_pairs 7: 1.0 times 1.1": _FILL,
    "theory/policy_families.py::largest_kl_coefficient 2: 1.0 times 1.1": (
        "no probability is larger than the number that stands for those that do not exist"
    ),
    "theory/stalling_extensions.py::log_escape_time 1: 1.0 times 1.1": _FILL,
    "theory/stalling_extensions.py::log_escape_time 5: '-log_weight - log_slope' with the other operator": (
        "decides where nodes of the quadrature are dense, and is small against what it is subtracted from "
        "where that matters: 1e-11 of the time"
    ),
    "theory/stalling_extensions.py::log_escape_time 16: 1e-30 times 1.1": "of a place on a logarithmic grid",
    "theory/stalling_extensions.py::log_escape_time 19: 1e-15 times 1.1": "of a place on a logarithmic grid",
    "theory/stalling_extensions.py::rescue_threshold 0: 1.0 times 1.1": (
        "a KL coefficient; of what depends on it nothing is used"
    ),
    "theory/stalling_extensions.py::largest_kl_coefficient 7: 1.0 times 1.1": _FILL,
    "theory/stalling_extensions.py::rounding 3: 20.0 times 1.1": (
        "a tolerance: how far the law is from a simulation at a finite rarity"
    ),
    "sim/objective.py: 'jax.lax.stop_gradient(of_modal(probabilities, rewards))' -> "
    "'of_modal(probabilities, rewards)'": "what is subtracted from all rewards changes no advantage",
    "sim/steppers.py: '- tableau.fsal' -> '- 0 * tableau.fsal'": (
        "one stage more, at the end itself, of weight zero"
    ),
    "sim/crossings.py: '(modal > 0) & (flow.breakpoints < np.inf)' -> "
    "'(modal > 9) & (flow.breakpoints < np.inf)'": "where a search starts: it ends at the same place, later",
    "sim/sensitivities.py: 'rate + gap * centre' -> 'rate'": (
        "the gap is zero where derivatives are taken; two steps of Newton's method make the second one exact"
    ),
}
"""Why a mutant that nothing notices is right as it is."""
