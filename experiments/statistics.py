"""Statistics of what experiments measure."""

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from scipy.stats import rankdata


def rank_correlation(first: npt.ArrayLike, second: npt.ArrayLike) -> Float[np.ndarray, "*batch"]:
    """Spearman's, along the last axis: the correlation of ranks, where equal values share their mean rank.

    Args:
        first, second: ``[*batch, n]``, broadcast against each other.

    Returns:
        Between -1 and 1; 0 where all values of one of them are equal, which tells nothing.
    """
    x, y = (rankdata(values, axis=-1) - 0.5 * (np.shape(values)[-1] + 1) for values in (first, second))
    size = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.divide((x * y).sum(-1), size, out=np.zeros(size.shape), where=size > 0)


def mean_interval(
    values: npt.ArrayLike, draws: int = 2000, seed: int = 0
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """A 95 % interval of the mean over the first axis, by the bootstrap: independent rows are drawn anew.

    Args:
        values: ``[n, *batch]``; what is not a number is left out.
        draws: how many times.
        seed: of the draws; the same for arrays of one length, so that differences are paired.
    """
    given = np.asarray(values, float)
    chosen = np.random.default_rng(seed).integers(len(given), size=(draws, len(given)))
    counts = np.zeros(chosen.shape)
    np.add.at(counts, (np.arange(draws)[:, None], chosen), 1.0)
    flat = given.reshape(len(given), -1)
    there = np.isfinite(flat)
    total, count = counts @ np.where(there, flat, 0.0), counts @ there
    means = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    low, high = np.nanquantile(means, [0.025, 0.975], axis=0)
    return low.reshape(given.shape[1:]), high.reshape(given.shape[1:])
