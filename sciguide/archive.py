"""Files of tensors and plain values: written atomically, checked and read without running code from them."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from sciguide.atomic import write_atomically
from sciguide.errors import InputError

FORMAT = 1


def write_archive(path: str | os.PathLike, state: dict[str, Any]) -> None:
    """Write `state`, of tensors and plain types: a file of this name is the old one or the new one."""
    buffer = BytesIO()  # torch names the archive after the file, and the temporary name is random: bytes must repeat
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(Path(path), lambda part: part.write_bytes(buffer.getvalue()))


@contextmanager
def read_archive(path: str | os.PathLike, what: str, remedy: str) -> Iterator[dict[str, Any]]:
    """The state in a file that `write_archive` wrote, for the body to build on.

    Raises InputError, naming the file, `what` it should be and the `remedy`, where the file is missing or of another
    format, where a checksum is wrong, and where the body fails on what it finds.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such {what}; {remedy}")
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():  # torch itself does not look at the checksums
                raise ValueError(f"checksum of {broken}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state.pop("format") != FORMAT:
            raise ValueError(f"not format {FORMAT}")
        yield state
    except InputError:
        raise
    except Exception as error:  # torch raises a dozen types on a damaged archive
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{path}: damaged or not a sciguide {what} ({reason}); {remedy}") from error
