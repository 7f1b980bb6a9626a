"""Files that are whole or absent, whenever the process dies.

A file is written under a temporary name in its own folder, flushed to the device, moved over its final name, and the
folder is flushed: in this order, since a rename that reaches the disk before the data would leave an empty file.
"""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

PART = ".part"


def flush(path: Path) -> None:
    """fsync of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write(part)` make the file, then give it the name `path`. A failure leaves nothing behind and is re-raised.

    The temporary name is random, so that several processes may write the same file: the last one wins, whole.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        write(part)
        flush(part)
        os.replace(part, path)
    except BaseException:
        if part.exists():
            os.truncate(part, 0)  # a library that failed may keep the file open, and its space with it
            part.unlink()
        raise
    flush(path.parent)
