"""Parameter sweeps: exact measurements over a grid of instances, in a store that survives anything."""

from goodteacher.experiments.sweeps.runner import sweep
from goodteacher.experiments.sweeps.store import open_store

__all__ = ["open_store", "sweep"]
