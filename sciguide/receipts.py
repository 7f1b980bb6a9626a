"""What is finished in a folder of member files, and whether it is still what was written.

Beside `member_00017.nc` stands `receipts/member_00017.json`: name, size and SHA-256 of the file and the identity of the
run. It is written after the file, so a receipt without its file, or of another size, means damage and never haste.
`receipts/ensemble.json` says how many members are wanted, so that a missing last member is missed.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sciguide.atomic import PART, write_atomically
from sciguide.errors import InputError

FOLDER = "receipts"


@dataclass(frozen=True)
class Receipt:
    """Proof of one finished member: `sha256` and `bytes` of the file `name`, made by the run `identity`."""

    member: int
    name: str
    sha256: str
    bytes: int
    identity: str


def identity(checkpoint: str, config: Mapping[str, Any], version: str) -> str:
    """What decides every byte of a run: SHA-256 of the canonical JSON of checkpoint digest, resolved config, version.

    `config`: plain JSON types, not NaN (TypeError, ValueError otherwise); the order of its keys does not matter.
    """
    whole = {"checkpoint": checkpoint, "config": config, "version": version}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def member_path(directory: str | Path, member: int) -> Path:
    """The file of a member."""
    return Path(directory) / f"member_{member:05d}.nc"


def receipt_path(directory: str | Path, member: int) -> Path:
    """The receipt of a member."""
    return Path(directory) / FOLDER / f"member_{member:05d}.json"


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write sorted, indented JSON atomically."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_atomically(path, lambda part: part.write_text(text))


def write_receipt(directory: str | Path, member: int, identity: str) -> Receipt:
    """Hash the finished file of `member` and write its receipt."""
    path = member_path(directory, member)
    receipt = Receipt(member, path.name, sha256(path), path.stat().st_size, identity)
    write_json(receipt_path(directory, member), asdict(receipt))
    return receipt


def read_receipt(directory: str | Path, member: int) -> Receipt | None:
    """The receipt of a member; an unreadable one counts as absent, and its member as unfinished."""
    try:
        receipt = Receipt(**json.loads(receipt_path(directory, member).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return receipt if (receipt.member, receipt.name) == (member, member_path(directory, member).name) else None


def read_receipts(directory: str | Path) -> dict[int, Receipt]:
    """All readable receipts by member."""
    numbers = (p.stem[7:] for p in (Path(directory) / FOLDER).glob("member_*.json"))
    receipts = {int(n): read_receipt(directory, int(n)) for n in numbers if n.isdecimal()}
    return {m: r for m, r in sorted(receipts.items()) if r is not None}


def fault(directory: str | Path, receipt: Receipt, verify: bool) -> str:
    """What is wrong with the file of a receipt, or "". `verify` hashes it; otherwise only its size is looked at."""
    path = Path(directory) / receipt.name
    if not path.is_file():
        return f"{receipt.name}: reported done but missing"
    if path.stat().st_size != receipt.bytes:
        return f"{receipt.name}: {path.stat().st_size} bytes, the receipt says {receipt.bytes}"
    if verify and sha256(path) != receipt.sha256:
        return f"{receipt.name}: contents differ from the receipt's SHA-256"
    return ""


def finished(directory: str | Path, identity: str, verify: bool = False) -> set[int]:
    """The members of the run `identity` that need no recomputing: receipt there, file of the right size.

    `verify` hashes the files as well.
    """
    receipts = read_receipts(directory).items()
    return {m for m, r in receipts if r.identity == identity and not fault(directory, r, verify)}


def wanted(directory: str | Path) -> int:
    """How many members the folder is meant to hold; without a plan, one more than the highest that it does hold."""
    try:
        return int(json.loads((Path(directory) / FOLDER / "ensemble.json").read_text())["members"])
    except (OSError, ValueError, KeyError, TypeError):
        files = {int(p.stem[7:]) for p in Path(directory).glob("member_*.nc") if p.stem[7:].isdecimal()}
        return 1 + max(files | set(read_receipts(directory)), default=-1)


def verify(directory: str | Path) -> list[str]:
    """Every problem of a folder of members, one line each; empty if it is whole. Reads and hashes all files."""
    receipts = read_receipts(directory)
    problems = []
    for member in sorted(set(range(wanted(directory))) | set(receipts)):
        if member in receipts:
            problems.append(fault(directory, receipts[member], verify=True))
        else:
            there = "no readable receipt" if member_path(directory, member).is_file() else "missing"
            problems.append(f"{member_path(directory, member).name}: {there}")
    if len({r.identity for r in receipts.values()}) > 1:
        problems.append("members of more than one run")
    return [p for p in problems if p]


@contextmanager
def lock(directory: str | Path, alone: bool) -> Iterator[bool]:
    """Hold the folder's lock, shared while writing a member, `alone` (and without waiting) while cleaning up.

    Yields whether it was granted; never where the file system has no locks. The kernel frees it when a process dies.
    """
    with (Path(directory) / FOLDER / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
            granted = True
        except OSError:
            granted = False
        yield granted


def remove_leftovers(directory: str | Path) -> int:
    """Remove the temporary files of dead runs, and return how many; none while anybody is writing here."""
    with lock(directory, alone=True) as granted:
        parts = [p for f in (Path(directory), Path(directory) / FOLDER) for p in f.glob(f"*{PART}")] if granted else []
        for part in parts:
            part.unlink(missing_ok=True)
    return len(parts)


def begin(directory: str | Path, members: int, identity: str) -> set[int]:
    """Make or take up the folder for `members` of the run `identity`; returns those already finished.

    Several processes may begin at once. InputError if the folder holds members of another run: they would be mixed.
    """
    folder = Path(directory) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory)
    others = {r.identity for r in read_receipts(directory).values()} - {identity}
    if others:
        raise InputError(
            f"{directory} holds members of another run ({sorted(others)[0][:12]}, this one is {identity[:12]}): "
            "give another --out, or remove that folder"
        )
    with lock(directory, alone=False):
        write_json(folder / "ensemble.json", {"members": members, "identity": identity})
    return finished(directory, identity)


def require_space(directory: str | Path, members: int, bytes_each: int) -> None:
    """InputError, before any computing, if `members` files of `bytes_each` do not fit on the disk of `directory`."""
    needed, free = members * bytes_each, shutil.disk_usage(directory).free
    if needed > free:
        raise InputError(
            f"{os.fspath(directory)}: {members} members need {needed} bytes and {free} are free: "
            "make room, ask for fewer members, or give another --out"
        )
