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
