"""Arrays in one file, in the safetensors format, written to survive a power cut and read without trusting a byte.

    8 bytes      n, the length of the header, little-endian
    n bytes      JSON: {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
    the rest     the arrays, row by row, little-endian, without a gap

Any other program that reads safetensors reads these. The library of that name does not write them, because it doesn't
ask the disk to keep what it was given, and does not read them, because it cannot say which array a damaged file lacks.
"""

import json
import math
import os
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np

_DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
}  # fmt: skip
_LONGEST_HEADER = 100_000_000


class DamagedFileError(ValueError):
    """A file that is not what was written; the sentence names the file and the first tensor that cannot be trusted."""


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> dict[str, int]:
    """Write the arrays, wait until the disk has them, and return each one's CRC-32."""
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    header, end = {}, 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _name_of(array.dtype), "shape": list(array.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for array in arrays.values():
            file.write(_bytes_of(array))
        file.flush()
        os.fsync(file.fileno())
    return {name: zlib.crc32(_bytes_of(array)) for name, array in arrays.items()}


def read_tensors(path: Path, checksums: dict[str, int]) -> dict[str, np.ndarray]:
    """The arrays, every offset, length and checksum checked; `DamagedFileError` names the first that fails."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        header, start = _read_header(file, path, size)
        if set(header) != set(checksums):
            name = min(set(header) ^ set(checksums))
            raise DamagedFileError(
                f"{path} is damaged: its header and the manifest disagree on whether there is a tensor {name!r}."
            )
        tensors = {}
        for name, (dtype, shape, begin, end) in header.items():
            if start + end > size:
                raise DamagedFileError(
                    f"{path} is truncated: tensor {name!r} ends at byte {start + end:,}, and the file at byte {size:,}."
                )
            file.seek(start + begin)
            data = file.read(end - begin)
            if zlib.crc32(data) != checksums[name]:
                raise DamagedFileError(
                    f"{path} is damaged: tensor {name!r} does not have the checksum it was written with."
                )
            tensors[name] = np.frombuffer(data, dtype).reshape(shape)
    return tensors


def _read_header(file, path, size):
    """{name: (dtype, shape, begin, end)} and the byte where the data starts; nothing in it is believed unchecked."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _LONGEST_HEADER):
        raise DamagedFileError(
            f"{path} is truncated or damaged: its {size:,} bytes do not hold its own header, nor any tensor."
        )
    try:
        header = json.loads(file.read(length))
        entries = {name: _checked_entry(entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"{path} is damaged: its header, which lists the tensors, cannot be read.") from error
    return entries, 8 + length


def _checked_entry(entry):
    dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    numbers = [*shape, begin, end]
    if (
        not all(type(number) is int and number >= 0 for number in numbers)
        or math.prod(shape) * dtype.itemsize != end - begin
    ):
        raise ValueError("a tensor's shape, type and place do not agree")
    return dtype, shape, begin, end


def _name_of(dtype):
    names = {known: name for name, known in _DTYPES.items()}
    if dtype not in names:
        raise TypeError(f"A tensor of dtype {dtype} has no place in a safetensors file; it takes {', '.join(_DTYPES)}.")
    return names[dtype]


def _bytes_of(array):
    return memoryview(array.reshape(-1).view(np.uint8))
