"""Exact dynamics of softmax policies under policy gradient. Knows no theorem, experiment or plot."""

import os

import jax

if "JAX_ENABLE_X64" not in os.environ:
    # Hitting times at 1e50 and relative errors of 1e-9 need double precision.
    jax.config.update("jax_enable_x64", True)
