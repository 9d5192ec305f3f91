"""The files of a sweep's store: its arrays as Zarr writes them, in memory."""

import json
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from goodteacher.experiments.sweeps.grid import Grid

_COORDINATES = 1 << 17  # values of a coordinate that are written at a time


def chunk_files(grid: Grid, number: int, values: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """The files of a chunk, by their place; the statuses last, which say that the others are there."""
    files: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(store_dict=files))
    place = grid.region(number)
    for name in sorted(values, key=lambda name: name.endswith("_status")):
        _variable(group, grid, name)[place] = values[name]
    return {key: data.to_bytes() for key, data in files.items() if not key.endswith("zarr.json")}


def skeleton_files(grid: Grid, plan: Mapping[str, Any]) -> dict[str, bytes]:
    """All other files: attributes, which hold the plan of the store, and the coordinates."""
    files: dict[str, Any] = {}
    store, specification, origin = MemoryStore(store_dict=files), grid.specification, plan["provenance"]
    about = {
        "title": f"goodteacher sweep of {specification.builder.name}",
        "specification": json.dumps(plan["specification"]),
        "lanes": grid.lanes,
        "precision": origin["precision"],
        "platform": origin["platform"],
        "devices": ", ".join(f"{n} x {kind}" for kind, n in Counter(origin["devices"]).items()),
        "versions": ", ".join(f"{name} {version}" for name, version in origin["versions"].items()),
        "git_commit": origin["git_commit"] or "none",
    }
    group = zarr.create_group(store, attributes=about)
    for dimension, axes in specification.dimensions.items():
        for name, axis in axes.items():
            dtype = axis.at(np.zeros(1, int)).dtype
            coordinate = _array(
                group,
                name,
                shape=(axis.count,),
                chunks=(min(axis.count, _COORDINATES),),
                dtype=str if dtype.kind == "U" else dtype,
                dimension_names=(dimension,),
                attributes={"long_name": name.replace("_", " "), "units": "1"},
            )
            for first in range(0, axis.count, _COORDINATES):
                part = np.arange(first, min(first + _COORDINATES, axis.count))
                values = axis.at(part)
                coordinate[part[0] : part[-1] + 1] = values.astype(object) if dtype.kind == "U" else values
    if specification.prompts > 1:
        prompt = _array(
            group,
            "prompt",
            shape=(specification.prompts,),
            chunks=(specification.prompts,),
            dtype="int64",
            dimension_names=("prompt",),
        )
        prompt[:] = np.arange(specification.prompts)
    for name in specification.variables:
        _variable(group, grid, name)
    with warnings.catch_warnings():
        # One file with all metadata: Zarr says that not every reader knows it yet; those ignore it.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)
    return {key: data.to_bytes() for key, data in files.items()}


def cell(key: str, grid: Grid) -> tuple[int, ...]:
    """Which chunk an array's file belongs to: its place along each dimension, counted in chunks."""
    return tuple(map(int, key.split(".")[1 : 1 + len(grid.chunk)]))


def _array(group: zarr.Group, name: str, **settings: Any) -> Any:
    # Compressed, and with a checksum that every reader of Zarr verifies.
    return group.create_array(
        name,
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        config={"write_empty_chunks": True},
        chunk_key_encoding={"name": "default", "separator": "."},
        **settings,
    )


def _variable(group: zarr.Group, grid: Grid, name: str) -> Any:
    specification = grid.specification
    variable = specification.variables[name]
    several = specification.prompts > 1
    prompts = (specification.prompts,) if several else ()
    return _array(
        group,
        name,
        shape=(*specification.shape, *prompts),
        chunks=(*grid.chunk, *prompts),
        dtype=variable.dtype,
        fill_value=variable.missing,
        dimension_names=(*specification.dimensions, *(("prompt",) if several else ())),
        attributes=dict(variable.attributes),
    )
