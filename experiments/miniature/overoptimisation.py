"""Runs with and without a KL term, along which the proxy may be over-optimised."""

from dataclasses import replace

import numpy as np

from goodteacher.experiments.miniature.classrooms import FEW, FLAT, LEARNED, TRUE, classrooms, teach
from goodteacher.experiments.miniature.lessons import TIME, Scale, seeds
from goodteacher.experiments.miniature.worlds import Family

MODELS = (LEARNED[0], LEARNED[-1], FEW, FLAT, TRUE)
COEFFICIENTS = (0.0, 0.1)
LONGER = 2.0  # times the learning rate of the other figures, for the policy to go far


def paths(scale: Scale, block: str) -> dict[str, np.ndarray]:
    """KL, proxy and truth along the runs.

    Returns:
        ``kl``, ``proxy``, ``truth`` and ``held_out``, ``[worlds, coefficients, models, records]``.
    """
    family = Family()
    room = classrooms(family, scale.course(), seeds(block), MODELS)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("kl", "proxy", "truth", "held_out")}
    metrics = ("kl_to_reference", "expected_proxy_reward", "expected_ground_truth_reward")
    for coefficient in COEFFICIENTS:
        course = replace(scale.course(kl=coefficient), learning_rate=LONGER * TIME / scale.updates)
        taught = teach(family, course, room, metrics, ())
        for name, metric in zip(("kl", "proxy", "truth"), metrics, strict=True):
            found[name].append(np.asarray(taught.train[metric]))
        found["held_out"].append(np.asarray(taught.held_out[metrics[-1]]))
    return {name: np.stack(values, 1) for name, values in found.items()}
