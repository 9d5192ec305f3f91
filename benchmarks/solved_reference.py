"""Times of tabular flows in 40 digits, which the tests compare the solved flow with.

    $ .venv/bin/python -m benchmarks.solved_reference 1 400 > problems.jsonl

Random problems of a seed, so many of them, of two to eight outputs: ordinary ones, probabilities down to
1e-300, rewards as close as 1e-15, ties, levels close to rewards. Independent of goodteacher: mpmath alone,
bisection and panels.
"""

import json
import sys
from itertools import pairwise
from typing import Any

import mpmath as mp
import numpy as np
import numpy.typing as npt

_NODES = 18
_PANELS = 70  # each a quarter of the next
_NEGLIGIBLE = mp.mpf(10) ** -22


class Flow:
    """The flow of a tabular policy without regularisation, of one prompt."""

    def __init__(self, logits: npt.ArrayLike, rewards: npt.ArrayLike):
        """From numbers that count as exact."""
        given = [mp.mpf(float(v)) for v in np.asarray(logits)]
        normalizer = mp.log(sum(mp.exp(v) for v in given))
        self.heights = [mp.exp(normalizer - v) for v in given]
        self.rewards = [mp.mpf(float(v)) for v in np.asarray(rewards)]
        self.log_product = sum(mp.log(h) for h in self.heights)

    def masses(self, tau: mp.mpf) -> list[mp.mpf]:
        """``exp(theta)`` of the outputs."""
        line = [h - r * tau for h, r in zip(self.heights, self.rewards, strict=True)]
        gaps = [value - min(line) for value in line]
        u = self.log_product / len(line)  # to the right of the root, from where Newton's method does not fail
        for _ in range(400):
            x = mp.exp(u)
            step = (sum(mp.log(x + gap) for gap in gaps) - self.log_product) / sum(x / (x + g) for g in gaps)
            u -= step
            if abs(step) < mp.mpf(10) ** -38:
                break
        return [1 / (mp.exp(u) + gap) for gap in gaps]

    def above(self, level: mp.mpf, tau: mp.mpf) -> Any:
        """The expected reward over a level, times the mass."""
        return sum((r - level) * mass for r, mass in zip(self.rewards, self.masses(tau), strict=True))

    def breakpoints(self) -> list[mp.mpf]:
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

    def time(self, level: float) -> mp.mpf:
        """Until the expected reward is at a level."""
        wanted = mp.mpf(float(level))
        if self.above(wanted, mp.mpf(0)) >= 0:
            return mp.mpf(0)
        known = [tau for tau in self.breakpoints() if tau > 0]
        high = max([*known, mp.mpf(1)])
        while self.above(wanted, high) < 0:
            high *= 16
            if high > mp.mpf(10) ** 2000:
                return mp.inf
        edges = sorted({mp.mpf(0), *(tau for tau in known if tau < high), high})
        left, right = next((a, b) for a, b in pairwise(edges) if self.above(wanted, b) >= 0)
        for _ in range(220):
            middle = (left + right) / 2
            left, right = (middle, right) if self.above(wanted, middle) < 0 else (left, middle)
        return self.integral([tau for tau in edges if tau < left] + [right])

    def integral(self, edges: list[mp.mpf]) -> mp.mpf:
        """Of the mass, by panels that shrink towards the edges."""
        points, weights = np.polynomial.legendre.leggauss(_NODES)
        total = mp.mpf(0)
        for left, right in pairwise(edges):
            half = (right - left) / 2
            inner = [half * mp.mpf(4) ** -k for k in range(_PANELS, -1, -1)]
            ends = [left, *(left + d for d in inner), *(right - d for d in reversed(inner[:-1])), right]
            for a, b in pairwise(ends):
                most = max(sum(self.masses(a)), sum(self.masses(b)))
                if 2 * (b - a) * most < total * _NEGLIGIBLE:
                    continue
                nodes = ((a + b) / 2 + (b - a) / 2 * mp.mpf(float(p)) for p in points)
                parts = (float(w) * sum(self.masses(node)) for w, node in zip(weights, nodes, strict=True))
                total += (b - a) / 2 * sum(parts)
        return total


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Logits, rewards and a level."""
    outputs = int(rng.choice([2, 3, 4, 8]))
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
        lambda: rng.choice(rewards[rewards > value]) - 10.0 ** -rng.uniform(1, 15),
        lambda: value + (best - value) * rng.uniform(0.01, 0.99),
    ][rng.integers(4)]()
    return logits, rewards, float(level) if value < level < best else value + 0.3 * (best - value)


def main(seed: str, count: str) -> None:
    """Writes a problem with its time on every line."""
    rng = np.random.default_rng(int(seed))
    with mp.workdps(40):
        for _ in range(int(count)):
            logits, rewards, level = draw(rng)
            time = mp.nstr(Flow(logits, rewards).time(level), 25)
            problem = {"logits": list(logits), "rewards": list(rewards), "level": level, "time": time}
            print(json.dumps(problem), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
