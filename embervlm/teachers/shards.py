"""Files of arrays that appear whole or not at all: safetensors, written aside and renamed, read by memory mapping."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from embervlm.errors import UserError

_DTYPES = {"U8": np.uint8, "U32": np.uint32, "I32": np.int32, "I64": np.int64, "F16": np.float16, "F32": np.float32}


def write_whole(path: Path, data: bytes) -> None:
    """The file holds `data` or what it held before, whatever happens in between."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[int, str]:
    """Bytes and sha256 of the safetensors file."""
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    write_whole(path, data)
    return len(data), hashlib.sha256(data).hexdigest()


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file as views into the mapped file: nothing is read before it is looked at."""
    try:
        file = np.memmap(path, dtype=np.uint8, mode="r")
        size = int.from_bytes(file[:8].tobytes(), "little")
        header = json.loads(file[8 : 8 + size].tobytes())
        body = file[8 + size :]
        return {
            name: body[slice(*entry["data_offsets"])].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}); delete it and build the cache again"
        ) from None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
