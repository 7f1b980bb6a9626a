"""The length that a NetCDF-3 file must have by its own header: the library reads what is cut off as zeros."""

import struct
from math import prod
from pathlib import Path
from typing import BinaryIO

# NC_BYTE, CHAR, SHORT, INT, FLOAT, DOUBLE, UBYTE, USHORT, UINT, INT64, UINT64, numbered from 1.
_TYPE_BYTES = (0, 1, 1, 2, 4, 4, 8, 1, 2, 4, 8, 8)
_STREAMING = (2**32 - 1, 2**64 - 1)


def check_classic(path: Path) -> None:
    """Raises ValueError for a NetCDF-3 file (classic, 64-bit offset or 64-bit data) that is shorter than it says.

    Files of other formats pass.
    """
    with open(path, "rb") as file:
        if file.read(3) != b"CDF":
            return
        version = file.read(1)
        if version not in (b"\x01", b"\x02", b"\x05"):
            return
        try:
            expected = _length(file, version)
        except (struct.error, IndexError) as error:
            raise ValueError("its header is cut off or damaged") from error
    there = path.stat().st_size
    if there < expected:
        raise ValueError(f"it has {there} bytes and should have {expected}")


def _length(file: BinaryIO, version: bytes) -> int:
    """The end of the last value, from the header that follows the magic number (NetCDF file format specification)."""
    count = ">Q" if version == b"\x05" else ">I"
    offset = ">I" if version == b"\x01" else ">Q"

    def read(form: str) -> int:
        return struct.unpack(form, file.read(struct.calcsize(form)))[0]

    def skip(length: int) -> None:
        file.seek(-(-length // 4) * 4, 1)

    def items() -> range:
        read(">I")
        return range(read(count))

    def skip_attributes() -> None:
        for _ in items():
            skip(read(count))
            width = _TYPE_BYTES[read(">I")]
            skip(width * read(count))

    records = read(count)
    lengths = []
    for _ in items():
        skip(read(count))
        lengths.append(read(count))
    skip_attributes()
    fixed_end, in_record = 0, []
    for _ in items():
        skip(read(count))
        dims = [lengths[read(count)] for _ in range(read(count))]
        skip_attributes()
        width = _TYPE_BYTES[read(">I")]
        read(count)
        begin = read(offset)
        if dims and dims[0] == 0:
            in_record.append((begin, width * prod(dims[1:])))
        else:
            fixed_end = max(fixed_end, begin + width * prod(dims))
    if not in_record or records == 0 or records in _STREAMING:
        return fixed_end
    # A record holds each variable padded to 4 bytes, unless there is only one.
    sizes = [size for _, size in in_record]
    stride = sizes[0] if len(sizes) == 1 else sum(-(-size // 4) * 4 for size in sizes)
    return max(fixed_end, *(begin + (records - 1) * stride + size for begin, size in in_record))
