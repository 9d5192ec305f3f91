"""Parameter sweeps: exact measurements over a grid of instances, in a store that survives anything."""

from experiments.sweeps.runner import sweep
from experiments.sweeps.store import open_store

__all__ = ["open_store", "sweep"]
