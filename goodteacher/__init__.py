"""Exact policy gradient on softmax policies, and what theory says of rewards as teachers.

The public names are those of ``__init__.pyi``, where their homes stand; each is loaded when it is first asked
for. Deeper names are in the four rooms: :mod:`goodteacher.sim`, :mod:`goodteacher.theory`,
:mod:`goodteacher.experiments` and :mod:`goodteacher.figures`.
"""

import os

import jax
import lazy_loader

if "JAX_ENABLE_X64" not in os.environ:
    # Hitting times at 1e50 and relative errors of 1e-9 need double precision.
    jax.config.update("jax_enable_x64", True)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
