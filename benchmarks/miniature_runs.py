"""Training in miniature: 400 updates on 200 prompts of 100 outputs, in seconds of a core."""

import time

import jax

from benchmarks.timing import table
from goodteacher.experiments.miniature.classrooms import PUBLISHED, Course, classrooms, teach
from goodteacher.experiments.miniature.worlds import Family

_WORLDS = range(2)


def main() -> None:
    """Prints the table."""
    course = Course(prompts=200, updates=400, learning_rate=0.25, records=2)
    room = classrooms(Family(), course, _WORLDS)
    seconds = []
    for _ in range(2):
        start = time.process_time()
        jax.block_until_ready(teach(Family(), course, room, (), ()).parameters)
        seconds.append(time.process_time() - start)
    runs = len(_WORLDS) * len(PUBLISHED)
    table(
        "a batch of exact runs of 400 updates on 200 prompts of 100 outputs (seconds of a core)",
        ("", "runs", "cold", "warm", "warm per run"),
        [("in miniature", runs, *seconds, seconds[1] / runs)],
    )
