import os
import subprocess
import sys

import jax.numpy as jnp

import goodteacher

PROGRAM = """
import jax
from goodteacher.sim.instance import Instance
from goodteacher.sim.objective import gradient
instance = Instance([1.0, 0.8, -1.0], start=[0.2, 0.5, 0.3])
slope = jax.jit(gradient)(instance, instance.initial_parameters)
print(slope.dtype, abs(slope[0, 0] - 0.2 * 0.7) < 1e-6)
"""


def test_single_precision_is_respected_where_the_user_sets_it():
    root = os.path.dirname(next(iter(goodteacher.__path__)))
    environment = os.environ | {"JAX_ENABLE_X64": "0", "PYTHONPATH": root}
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["float32", "True"], done.stderr


def test_without_a_choice_it_is_double():
    assert jnp.zeros(()).dtype == jnp.float64
