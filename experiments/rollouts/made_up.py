"""A made-up data set: the rollouts of the examples, the pictures and the tests of the report."""

import numpy as np
import pandas as pd

REWARDS = ("verifier", "judge")


def made_up(prompts: int = 48, draws: int = 8, seed: int = 0) -> pd.DataFrame:
    """Answers to sums, some right, with two rewards and the ground truth.

    The verifier checks the answer, and accepts one wrong answer of ten. The judge is a reward model that is
    right on the whole, of small variance, and fond of one wrong answer on one prompt of six. Some prompts are
    too easy, some too hard.

    Returns:
        Columns ``prompt``, ``answer``, ``correct``, and a column for each of :data:`REWARDS`.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(prompts):
        first, second = rng.integers(10, 99, size=2)
        chance = rng.beta(0.7, 1.1)
        flattered = first + second + 10
        fond = number % 6 == 0
        for _ in range(draws):
            wrong = first + second + rng.choice([-10, -1, 1, 10], p=[0.1, 0.2, 0.3, 0.4])
            answer = first + second if rng.random() < chance else wrong
            correct = float(answer == first + second)
            judge = 0.2 * correct + 0.05 * rng.normal() + (0.5 if fond and answer == flattered else 0.0)
            rows.append(
                {
                    "prompt": f"{first} + {second}",
                    "answer": str(answer),
                    "correct": correct,
                    "verifier": float(correct or rng.random() < 0.1),
                    "judge": round(judge, 3),
                }
            )
    return pd.DataFrame(rows)
