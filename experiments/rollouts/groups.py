"""Groups larger than there are draws: extrapolated by a beta-binomial over the prompts."""

import numpy as np
from jaxtyping import Float, Int
from scipy.special import betaln


def extrapolated_spread(
    successes: Int[np.ndarray, " prompts"], draws: Int[np.ndarray, " prompts"], group: int
) -> float:
    """Expected share of groups with both values, of a reward that has two.

    The probability of the larger value varies over prompts by a beta distribution, the likeliest one.

    Args:
        successes: draws of each prompt with the larger value.
        draws: of each prompt.
        group: size of a group.
    """
    a, b = _likeliest(successes, draws)
    return float(-np.expm1(np.logaddexp(betaln(a + group, b), betaln(a, b + group)) - betaln(a, b)))


def _likeliest(successes: np.ndarray, draws: np.ndarray) -> Float[np.ndarray, "2"]:
    from scipy.optimize import minimize  # which takes long to import, and few need it

    pairs, weights = np.unique(np.stack([successes, draws]), axis=1, return_counts=True)
    k, n = pairs

    def cost(logs: np.ndarray) -> float:
        a, b = np.exp(logs)
        return -float((weights * (betaln(a + k, b + n - k) - betaln(a, b))).sum())

    found = minimize(cost, np.zeros(2), method="L-BFGS-B", bounds=[(-12.0, 12.0)] * 2)
    return np.exp(found.x)
