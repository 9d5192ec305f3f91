"""The handwritten digits that come with scikit-learn, an optional dependency."""

from functools import cache

import numpy as np
from jaxtyping import Float, Int

PIXELS = 64  # of an image


@cache
def digits() -> tuple[Float[np.ndarray, "images pixels"], Int[np.ndarray, " images"]]:
    """All images, from 0 (white) to 1 (black), and what they show.

    Raises:
        ValueError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "the miniature reads handwritten digits, which come with scikit-learn, and that is not "
            "installed; pip install 'goodteacher[miniature]'"
        ) from error
    images, shown = load_digits(return_X_y=True)
    return np.asarray(images, float) / 16.0, np.asarray(shown, int)
