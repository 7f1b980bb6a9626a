"""What is finished of a long computation, in a folder beside the file that it will become: `OUT.parts`.

A computation is a row of groups, numbered from 0. Each part holds the fields of the groups `first` ... `stop - 1`, as
an `.npz` of its own written atomically, and follows the one before: whenever the process dies, the next one goes on
where the parts end. What was computed (not how much of it) stands in `identity.json`.
"""

import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sciguide.atomic import PART, flush, write_atomically
from sciguide.errors import InputError

IDENTITY, LOCK, WHOLE, REPLACED = "identity.json", ".lock", "whole", "replaced"
BATCH = 32  # samples of a block


class Part(NamedTuple):
    """The groups `first` ... `stop - 1` in the file `path`."""

    first: int
    stop: int
    path: Path


class Parts:
    """The parts in `folder`, made by `open_parts`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.whole = folder, folder / WHOLE

    def finished(self) -> list[Part]:
        """In their order, from group 0 without a gap."""
        there = [Part(*map(int, path.stem.split("-")), path) for path in self.folder.glob("*-*.npz")]
        found: list[Part] = []
        for part in sorted(there):
            if part.first == (found[-1].stop if found else 0):
                found.append(part)
        return found

    def stop(self) -> int:
        """The first group that is missing."""
        return max((part.stop for part in self.finished()), default=0)

    def append(self, first: int, stop: int, fields: Mapping[str, NDArray]) -> None:
        """Keep the fields of the groups `first` ... `stop - 1`."""

        def write(part: Path) -> None:
            with part.open("wb") as stream:
                np.savez(stream, **fields)

        path = self.folder / f"{first:08d}-{stop:08d}.npz"
        with disk_errors(path):
            write_atomically(path, write)

    def read(self, part: Part) -> dict[str, NDArray]:
        """The fields of a part. Raises InputError where the file is damaged."""
        try:
            with np.load(part.path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{part.path}: damaged ({error}): remove it and run the same command again") from error

    def blocks(self, samples: int) -> Iterator[tuple[int, dict[str, NDArray]]]:
        """The first `samples` samples in blocks of BATCH, however the parts were cut: the number of the first, and the
        fields."""
        first, held = 0, {}
        for part in self.finished():
            fields = self.read(part)
            held = {k: np.concatenate([held[k], v]) if held else v for k, v in fields.items()}
            while first < samples and (there := len(next(iter(held.values())))) >= min(BATCH, samples - first):
                count = min(BATCH, samples - first, there)
                yield first, {name: values[:count] for name, values in held.items()}
                first, held = first + count, {name: values[count:] for name, values in held.items()}

    def publish(self, path: Path) -> int:
        """Give what stands in `whole`, a file or a folder, the name `path`, remove the parts, and return its bytes."""
        every = [self.whole, *self.whole.rglob("*")]
        size = sum(file.stat().st_size for file in every if file.is_file())
        for each in every:
            flush(each)
        if path.is_dir() or (path.exists() and self.whole.is_dir()):
            os.rename(path, self.folder / REPLACED)  # a folder cannot take the place of another
        os.replace(self.whole, path)
        flush(path.parent)
        shutil.rmtree(self.folder)
        return size


@contextmanager
def open_parts(folder: Path, identity: Mapping[str, Any]) -> Iterator[Parts]:
    """The parts in `folder`, which is made if need be, removed where nothing is finished when the body fails, and
    otherwise left as it is; `identity`: what is computed, in numbers and words.

    Raises InputError where the folder holds parts of something else, or another process works in it."""
    folder.mkdir(exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another process works there: wait for it, or give another --out") from None
        except OSError:
            pass  # a file system without locks
        _take_up(folder, plain(identity))
        parts = Parts(folder)
        try:
            yield parts
        except BaseException:
            if parts.whole.is_file():
                os.truncate(parts.whole, 0)  # a library that failed may keep the file open, and its space with it
            remove(parts.whole)
            if not parts.finished():
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _take_up(folder: Path, identity: dict[str, Any]) -> None:
    """Check or write the identity, and remove what dead processes left unfinished."""
    state = folder / IDENTITY
    if state.exists():
        held = json.loads(state.read_text())
        if differing := {key: held.get(key) for key in {*held, *identity} if held.get(key) != identity.get(key)}:
            said = ", ".join(f"{key} {value}" for key, value in sorted(differing.items()))
            raise InputError(
                f"{folder} holds unfinished samples of another set ({said}): give that, another --out, or remove it"
            )
    elif any(path.name != LOCK and path.suffix != PART for path in folder.iterdir()):
        raise InputError(f"{folder} was not made by this command: remove it, or give another --out")
    for left in [*folder.glob(f"*{PART}"), folder / WHOLE, folder / REPLACED]:
        remove(left)
    with disk_errors(state):
        write_atomically(state, lambda part: part.write_text(json.dumps(identity, indent=1)))


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON gives it back, NumPy's numbers and arrays among them."""
    return json.loads(json.dumps(values, default=lambda value: value.tolist()))


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What a library raises when it cannot write, as one OSError that names the file and the space that is left."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(next(p for p in path.parents if p.exists())).free / 2**20
        raise OSError(f"{path} could not be written ({error}); {free:.0f} MB are free there") from error
