"""The six published runs of 50,000 updates, against a loop of jitted updates driven from the host."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.timing import table, timed
from experiments.instances import beneficial_errors
from sim.ascent import ascend
from sim.files import write_instance
from sim.objective import gradient

UPDATES, RATE = 50_000, 0.1
PUBLISHED_SECONDS = 97.0  # the program published with arXiv:2604.25872, one run on a CPU


def main() -> None:
    """Prints the table."""
    probabilities = jnp.array([0.05, 0.10, 0.15])
    runs = [
        jax.vmap(lambda p, t=t: beneficial_errors(p, trained_on=t))(probabilities)
        for t in ("ground_truth", "proxy")
    ]
    six = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *runs)
    sgd = optax.sgd(RATE)
    records = np.arange(999, UPDATES, 1000)
    metrics = ("probabilities", "expected_ground_truth_reward")
    batched = jax.jit(jax.vmap(lambda i: ascend(i, sgd, records, metrics=metrics).records))
    ours = timed(lambda: batched(six))

    one = jax.tree.map(lambda leaf: leaf[0], six)
    update = jax.jit(lambda parameters: parameters + RATE * gradient(one, parameters))

    def host_loop() -> jax.Array:
        parameters = one.initial_parameters
        for _ in range(UPDATES):
            parameters = update(parameters)
        return parameters

    theirs = timed(host_loop, repeats=2)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instance.json"
        write_instance(one, path)
        command = [sys.executable, "-m", "experiments", "run", str(path), "--dynamics", "ascent"]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        process = time.perf_counter() - start

    table(
        f"{UPDATES:,} updates with exact gradients (seconds)",
        ("", "runs", "cold", "warm", "ratio to the first, per run"),
        [
            ("scan on the device, vmapped", 6, ours.cold, ours.warm, 1.0),
            ("jitted update, loop on the host", 1, theirs.cold, theirs.warm, 6 * theirs.warm / ours.warm),
            ("published program (as reported)", 1, "", PUBLISHED_SECONDS, 6 * PUBLISHED_SECONDS / ours.warm),
            ("`goodteacher run`, whole process", 1, process, "", ""),
        ],
    )
