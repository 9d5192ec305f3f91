"""``make audited``: what an audit of version 0.1 altered, and what notices it now; writes ``audited.md``.

The audit altered 26 constants and terms of statements, one at a time, and ran ``verify`` with 10,000
instances: 23 passed. It altered 25 lines of ``sim`` and ran their tests: 6 passed. Here is today's
counterpart of each. Numbers of formulas and functions of ``theory`` are altered in this process, on 2,000
instances; lines run through their tests, with what ``make mutate`` keeps of them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.alterations import Mutant, line_mutants
from benchmarks.in_place import Observed, in_place
from benchmarks.kept import Results, digest
from goodteacher.experiments.compilation import keep_compiled
from goodteacher.theory.formulas import Formula
from goodteacher.theory.statements import find_statements

_ROOT = Path(__file__).parents[1]
_PAGE = Path(__file__).with_suffix(".md")
_INSTANCES = 2_000


class Number(NamedTuple):
    """Numbers of a formula in place of the claim's.

    Attributes:
        what: the alteration, in words.
        statement: whose formula it is.
        numbers: by name.
        true: why it is true, if it is: then no instance refutes it.
    """

    what: str
    statement: str
    numbers: Mapping[str, float]
    true: str = ""


class Text(NamedTuple):
    """Text of a function of ``theory`` in place of the claim's; otherwise as :class:`Number`."""

    what: str
    statement: str
    function: str
    old: str
    new: str
    true: str = ""


_BY_ODDS = "`hitting_time_tabular_odds`: t ≥ 4 \\|S\\| γ / ((2+γ) √Var), which is no less"
_SHARP = "`fast_increase_sharp` implies it"

STATEMENTS = (
    Number("Proposition 3: \\|S\\|² for \\|S\\|", "hitting_time_tabular", {"prompts": 2.0}),
    Number(
        "Lemma 10: term in λ dropped",
        "probability_growth",
        {"kl": 0.0},
        "`probability_growth_sharp`: 16/27 for 4 + 2λ ln(1/min π₀)",
    ),
    Number("Theorem 6, wrong teacher: √2 for 1/√2", "wrong_teacher", {"constant": 2**0.5}, _BY_ODDS),
    Number("Theorem 6, right teacher: \\|S\\| dropped", "right_teacher", {"count": 0.0}),
    Number("Theorem 5, fast teacher: \\|S\\| dropped", "fast_teacher", {"count": 0.0}),
    Number("Theorem 5, slow teacher: \\|S\\|² for \\|S\\|", "slow_teacher", {"count": 2.0}),
    Number(
        "Proposition 4, sharp form: \\|Y₊\\| dropped (of the published form: by 64 outputs, "
        "`tests/theory/test_fast_increase.py`)",
        "fast_increase_sharp",
        {"outputs": 0.0},
    ),
    Number("ideal proxy: \\|S\\| and 1 − ε dropped", "beneficial_proxy_bound", {"count": 0.0, "others": 0.0}),
    Text(
        "stall under KL: −λ dropped beside r* − q",
        "stalling_regularized",
        "log_regularized_time",
        "jnp.log(rest.gap - kl_coefficient)",
        "jnp.log(rest.gap)",
    ),
    Number("Łojasiewicz: 1.05 for 1", "lojasiewicz", {"constant": 1.05}),
    Text(
        "next order of the stalling law: 1 dropped from what the middling output spends",
        "stalling_law_next_order",
        "_correction_terms",
        "spent = (1.0 + roles.gap * mean(1.0 / roles.drop))",
        "spent = (roles.gap * mean(1.0 / roles.drop))",
    ),
    Number("sharp gradient bound: √0.45 for √0.5", "gradient_bound_sharp", {"constant": 0.45**0.5}),
    Text(
        "Proposition 3: γ for 2 (1 − exp(−γ/2))",
        "hitting_time_tabular",
        "hitting_time_lower_bound",
        "constant * -jnp.expm1(-rate * jnp.asarray(gamma))",
        "jnp.asarray(gamma)",
        _BY_ODDS,
    ),
    Number("Theorem 5, fast teacher: (1−ρ)⁻³ for (1−ρ)⁻⁴", "fast_teacher", {"rest": -3.0}, _SHARP),
    Number("Theorem 6, right teacher: (1−ρ)⁻² for (1−ρ)⁻³", "right_teacher", {"rho": -2.0}, _SHARP),
    Number(
        "Theorem 6: λ up to 16 times as large", "fast_increase_sharp", {}, f"{_SHARP}, whose limit is larger"
    ),
    Number("Proposition 4: λ up to 10 times as large", "fast_increase_sharp", {}, f"{_SHARP}, with 2 for 4"),
    Number(
        "Proposition 4: exp(−2 …) for exp(−20 …) in the limit of bad outputs",
        "fast_increase_sharp",
        {},
        f"{_SHARP}, whose limit has a twentieth",
    ),
    Number(
        "ideal proxy: λ up to 10 times as large",
        "fast_increase_sharp",
        {},
        f"{_SHARP}, whose limit is larger",
    ),
    Text(
        "rare output: range of the rewards without the corrected one",
        "benign_rare_output",
        "_widest",
        "jnp.maximum(_spread(rewards, exists), _spread(correct, exists))",
        "_spread(rewards, exists)",
    ),
    Number("norm of GRPO's mean: 0.95 for 1", "grpo_norm", {"constant": 0.95}),
    Number(
        "Proposition 2: L dropped",
        "gradient_bound_autoregressive",
        {"length": 0.0},
        "`gradient_bound_sharp`: J √(L Var/2), which is less up to 72 tokens",
    ),
    Number(
        "Lemma 10: 0.7 for 4",
        "probability_growth",
        {"constant": 0.7},
        "`probability_growth_sharp`: 16/27 is enough",
    ),
    Number("stall under KL: 2 % more", "stalling_regularized", {"constant": 1.02}),
    Text(
        "partial credit: 0.2 % more",
        "partial_credit",
        "_law",
        "partial, binary = times.predicted\n    return partial - binary",
        "partial, binary = times.predicted\n    return partial - binary + 2e-3",
    ),
    Number("stalling law: 0.1 % more", "stalling_law", {"constant": 1.001}),
)
"""The audit's 26."""

LINES = (
    "mask, comparisons.dispreferred_log_probabilities, 0.0",
    "max_backtracking_steps=30",
    "max_learning_rate=learning_rate)",
    "_FISHER_FLOOR = 1e-12",
    "_CONVERGED = 1e-6",
    "_AT_REST = 1e-10",
    "advantages.mean(-1, keepdims=True, where=valid)",
    "strength * (ratio - 1.0), 0.0)",
    "(group / (group - 1))",
    "variance = (centered**2).mean(-1, keepdims=True)",
    "(log_p - log_reference) + regularizer.entropy * log_p",
    "probabilities / jnp.where(present, mass, 1.0)[group] * chosen",
    "look(count + 1.0, parameters, first)",
    "look(jnp.zeros(()), start, unmet)",
    "momentum=0.9",
    "dispreferred_rewards < comparisons.expected_rewards",
    "means = instance.rewards - advantage",
    "return spectral_norms(self.features / self.temperature)[:, None]",
    "uniforms[count - index * length]",
)
"""Of the audit's 25 lines of ``sim`` those that still stand, by what is altered there."""


def altered(one: Number | Text, instances: int = _INSTANCES) -> int:
    """How many instances refute it."""
    statement = find_statements()[one.statement]
    if isinstance(one, Number):
        assert isinstance(statement.judge, Formula)
        judge = statement.judge.altered(**one.numbers)
        return Observed(statement, instances, trials=False).violations(judge)
    path = f"theory/{_module(one)}.py"
    text = (_ROOT / path).read_text(encoding="utf-8")
    if text.count(one.old) != 1:
        raise ValueError(f"{path} has {one.old!r} {text.count(one.old)} times; mend audited.py")
    observed = Observed(statement, instances, trials=False)
    with in_place(Mutant(one.what, path, text.replace(one.old, one.new), (), one.function)):
        return observed.violations(statement.judge)


def _module(one: Text) -> str:
    judge = find_statements()[one.statement].judge
    home = judge.law if isinstance(judge, Formula) else judge
    return home.__module__.split(".")[-1]


def rows() -> Iterator[tuple[str, str, str]]:
    """What was altered, whose counterpart is altered now, and what comes of it."""
    for one in STATEMENTS:
        if isinstance(one, Number) and not one.numbers:
            yield one.what, f"`{one.statement}`", f"true: {one.true}"
            continue
        count = altered(one)
        if bool(count) == bool(one.true):
            raise ValueError(
                f"{one.what}: {count} instances refute it; it is said to be {one.true or 'false'}"
            )
        found = f"true: {one.true}" if one.true else f"refuted by {count:,} of {_INSTANCES:,}"
        yield one.what, f"`{one.statement}`", found
    kept = Results().found
    for mutant in line_mutants():
        if any(old in mutant.name for old in LINES):
            found = kept.get(digest(mutant))
            said = "not run yet" if found is None else f"fails: `{found}`" if found else "survives"
            yield mutant.name.replace("|", "\\|"), f"`{mutant.path}`", said


def main() -> None:
    """Writes the page.

    Raises:
        ValueError: if an alteration that is said to be true is refuted, or one that is false is not.
    """
    keep_compiled()
    lines = ["| altered | where it stands now | result |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows()]
    text = (__doc__ or "").strip().split("\n\n", 1)[1]
    _PAGE.write_text("\n".join([text, "", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
