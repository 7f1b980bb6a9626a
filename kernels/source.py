"""The folder where generated kernels lie: written once, imported from there ever after, and private, because it is run.

A generated module is a file `NAME_<key>.py`, its key 16 hex digits of a SHA-256. Triton and Numba both need a real
file; Numba's and Triton's own caches find it again by its path. A file appears under its name whole or not at all,
whoever else writes it at the same moment, since two writers of one key write the same text.
"""

import hashlib
import importlib.util
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

_lock = threading.Lock()


def cache_folder() -> Path:
    """`$SCIGUIDE_CACHE`, else `sciguide/kernels` in the user's cache folder; made where it is missing, mode 0700.

    Raises PermissionError where it belongs to somebody else or others may write to it, OSError where it cannot be made.
    """
    told = os.environ.get("SCIGUIDE_CACHE")
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(told) if told else shared / "sciguide" / "kernels"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        message = f"no folder for generated kernels: {error.strerror}; set SCIGUIDE_CACHE to a folder of your own"
        raise type(error)(error.errno, message, str(folder)) from error
    found = folder.stat()
    if found.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; set SCIGUIDE_CACHE to a folder of your own")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{folder} may be written by others; run `chmod go-w {folder}`, or set SCIGUIDE_CACHE")
    return folder.resolve()


def digest(*parts: str | bytes) -> str:
    """16 hex digits that name `parts`, their order and where each one ends."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:16]


def write_atomically(path: Path, data: bytes) -> None:
    """`data` at `path`, mode 0600: a reader finds what was there before or all of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load_source(name: str, text: str | Callable[[], str], key: str | None = None) -> ModuleType:
    """The module of source `text`, imported from the cache folder under `name`_`key`.

    Without a `key` it is the text's own, and a file that holds anything else is written again. With a `key` (of what
    the text is made from) `text` is called only where the file is missing.
    """
    if key is None:
        text = text if isinstance(text, str) else text()
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        same = text.encode()
    else:
        same = None
    path = cache_folder() / f"{name}_{key}.py"
    with _lock:
        loaded = sys.modules.get(path.stem)
        if loaded is not None and loaded.__file__ == str(path):
            return loaded
        if not path.exists() or (same is not None and path.read_bytes() != same):
            write_atomically(path, (text if isinstance(text, str) else text()).encode())
        return _import(path)


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where Numba's cached functions and pickle look for it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module
