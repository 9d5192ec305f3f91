"""Times of tabular flows in 40 digits and more, which the tests compare the solved flow with.

    $ .venv/bin/python -m benchmarks.solved_reference 1 400 > problems.jsonl

Random problems of a seed, so many of them, of two to 64 outputs: ordinary ones, probabilities down to 1e-300,
rewards as close as 1e-15, ties, levels close to rewards. Independent of goodteacher: MPFR's numbers (of
gmpy2), bisection and panels.
"""

import importlib
import json
import math
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

gmpy2: Any = importlib.import_module("gmpy2")  # which make audit alone installs, and has few types
mpfr: Any = gmpy2.mpfr

OUTPUTS = (2, 3, 4, 8, 16, 64)
_BITS = 140  # and three for each bit of the rarest probability: differences of lines lose so many
_NODES = 18
_PANELS = 70  # each a quarter of the next
_NEGLIGIBLE = 1e-22
_CLOSE, _NEAR = 1e-15, 0.5
_ROOT = 1e-30
_FARTHEST = mpfr("1e2000")
_POINTS, _WEIGHTS = ([mpfr(float(v)) for v in each] for each in np.polynomial.legendre.leggauss(_NODES))


class Flow:
    """The flow of a tabular policy without regularisation, of one prompt."""

    def __init__(self, logits: npt.ArrayLike, rewards: npt.ArrayLike):
        """From numbers that count as exact."""
        given = [mpfr(float(v)) for v in np.asarray(logits)]
        mass = sum(gmpy2.exp(v) for v in given)
        self.heights = [mass / gmpy2.exp(v) for v in given]
        self.rewards = [mpfr(float(v)) for v in np.asarray(rewards)]
        self.product = math.prod(self.heights)
        self.most = gmpy2.root(self.product, len(given))  # no smallest x is larger
        self._last: Any = None  # from where the next root is searched for

    def masses(self, tau: Any) -> list[Any]:
        """``exp(theta)`` of the outputs."""
        line = [h - r * tau for h, r in zip(self.heights, self.rewards, strict=True)]
        lowest = min(line)
        gaps = [value - lowest for value in line]
        # Newton's method for ln x converges from everywhere, and for x close to the root without logarithms.
        x = self._last or self.most
        while True:
            values = [x + gap for gap in gaps]
            product = math.prod(values)
            off = (self.product - product) / product
            slope = x * sum(map(_reciprocal, values))
            x *= 1 + off / slope if abs(off) < _NEAR else gmpy2.exp(gmpy2.log(self.product / product) / slope)
            if abs(off) < _CLOSE:  # and squared what is left
                self._last = x
                return [1 / (x + gap) for gap in gaps]

    def above(self, level: Any, tau: Any) -> Any:
        """The expected reward over a level, times the mass."""
        return sum((r - level) * mass for r, mass in zip(self.rewards, self.masses(tau), strict=True))

    def breakpoints(self) -> list[Any]:
        """Of the lower envelope of the lines."""
        modal = min(range(len(self.rewards)), key=lambda y: (self.heights[y], -self.rewards[y]))
        found = []
        while True:
            next_ones = [
                ((self.heights[y] - self.heights[modal]) / (r - self.rewards[modal]), -r, y)
                for y, r in enumerate(self.rewards)
                if r > self.rewards[modal]
            ]
            if not next_ones:
                return found
            tau, _, modal = min(next_ones)
            found.append(tau)

    def time(self, level: float) -> Any:
        """Until the expected reward is at a level."""
        wanted = mpfr(float(level))
        if self.above(wanted, mpfr(0)) >= 0:
            return mpfr(0)
        known = [tau for tau in self.breakpoints() if tau > 0]
        high = max([*known, mpfr(1)])
        while self.above(wanted, high) < 0:
            high *= 16
            if high > _FARTHEST:
                return mpfr("inf")
        edges = sorted({mpfr(0), *(tau for tau in known if tau < high), high})
        left, right = next((a, b) for a, b in pairwise(edges) if self.above(wanted, b) >= 0)
        start, end = left, right
        for _ in range(gmpy2.get_context().precision):
            if right - left <= _ROOT * min(left - start, end - right):
                break
            middle = (left + right) / 2
            left, right = (middle, right) if self.above(wanted, middle) < 0 else (left, middle)
        return self.integral([tau for tau in edges if tau < left] + [right])

    def integral(self, edges: list[Any]) -> Any:
        """Of the mass, by panels that shrink towards the edges."""
        total = mpfr(0)
        for left, right in pairwise(edges):
            half = (right - left) / 2
            inner = [half * mpfr(4) ** -k for k in range(_PANELS, -1, -1)]
            ends = [left, *(left + d for d in inner), *(right - d for d in reversed(inner[:-1])), right]
            masses = [sum(self.masses(end)) for end in ends]
            widths = [b - a for a, b in pairwise(ends)]
            most = [2 * w * max(*pair) for w, pair in zip(widths, pairwise(masses), strict=True)]
            for number in sorted(range(len(widths)), key=lambda i: -most[i]):
                if most[number] < total * _NEGLIGIBLE:
                    break
                middle, half = (ends[number] + ends[number + 1]) / 2, widths[number] / 2
                nodes = zip(_POINTS, _WEIGHTS, strict=True)
                total += half * sum(w * sum(self.masses(middle + half * p)) for p, w in nodes)
        return total


def _reciprocal(value: Any) -> Any:
    return 1 / value


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Logits, rewards and a level."""
    outputs = int(rng.choice(OUTPUTS))
    logits = [
        lambda: 2 * rng.normal(size=outputs),
        lambda: np.append(0.0, -rng.uniform(0, 690, outputs - 1)),
        lambda: -rng.uniform(0, 30, outputs),
        lambda: -rng.exponential(20, outputs),
        lambda: np.round(-rng.uniform(0, 6, outputs)) * rng.choice([1, 10, 50]),
    ][rng.integers(5)]()
    rewards = [
        lambda: rng.uniform(-1, 1, outputs),
        lambda: rng.choice([-1, -0.5, 0, 0.5, 1], outputs),
        lambda: rng.choice([0.2, 0.7], outputs) + rng.normal(size=outputs) * 10.0 ** -rng.uniform(1, 15),
        lambda: np.sort(rng.uniform(-1, 1, outputs))[np.argsort(np.argsort(-logits))],
    ][rng.integers(4)]()
    if rewards.max() == rewards.min():
        rewards[0] += 0.5
    p = np.exp(logits - logits.max())
    value, best = float(p @ rewards / p.sum()), float(rewards.max())
    level = [
        lambda: value + 0.5 * (best - value),
        lambda: best - (best - value) * 10.0 ** -rng.uniform(0, 12),
        lambda: rng.choice(rewards[rewards >= min(value, best)]) - 10.0 ** -rng.uniform(1, 15),
        lambda: value + (best - value) * rng.uniform(0.01, 0.99),
    ][rng.integers(4)]()
    return logits, rewards, float(level) if value < level < best else value + 0.3 * (best - value)


def reference_time(logits: np.ndarray, rewards: np.ndarray, level: float) -> str:
    """The time in 25 digits."""
    rarest = float(logits.max() - logits.min()) / math.log(2.0)
    with gmpy2.context(precision=_BITS + 3 * math.ceil(rarest)):
        return f"{Flow(logits, rewards).time(level):.25g}"


def main(seed: str, count: str) -> None:
    """Writes a problem with its time on every line."""
    rng = np.random.default_rng(int(seed))
    for _ in range(int(count)):
        logits, rewards, level = draw(rng)
        time = reference_time(logits, rewards, level)
        problem = {"logits": list(logits), "rewards": list(rewards), "level": level, "time": time}
        print(json.dumps(problem), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
