"""`sciguide inspect PATH`: what a NetCDF file, a Zarr store, a model or a run folder holds; `inspect kernel NAME`: the
source that is generated from an equation."""

from pathlib import Path
from typing import TYPE_CHECKING

from sciguide.cli.parser import call
from sciguide.errors import InputError

if TYPE_CHECKING:
    from sciguide.constraints import EquationRecord


def run(argv: list[str]) -> int:
    if argv[:1] == ["kernel"]:
        from sciguide.cli import kernel

        return kernel.run(argv[1:])
    return call(inspect, argv, "sciguide inspect")


def inspect(path: str, verify: bool = False) -> int:
    """Say what a file or a folder holds. `sciguide inspect kernel NAME` prints the kernel of an equation.

    Args:
        path: a NetCDF file, a Zarr store, a model.pt, a run folder, or a folder of members
        verify: hash every member file and compare it with its receipt; the exit code is 1 if one differs
    """
    where = Path(path)
    if not where.exists():
        raise FileNotFoundError(2, "no such file or folder", path)
    if where.suffix == ".pt":
        lines = describe_model(where)
    elif where.is_file() or any((where / mark).exists() for mark in ("zarr.json", ".zgroup")):
        lines = describe_fields(where)
    else:
        lines = describe_folder(where)
    print("\n".join(lines))
    return check_receipts(where) if verify else 0


def describe_fields(path: Path) -> list[str]:
    """The dimensions, variables, coordinates and global attributes of a file or store. Raises InputError."""
    from sciguide.cli.data import columns
    from sciguide.datasets.files import LOCK, open_file

    with LOCK, open_file(path) as ds:
        rows = [("variable", "dimensions", "type", "units", "what it is")]
        for name, variable in [*ds.data_vars.items(), *ds.coords.items()]:
            what = variable.attrs.get("long_name") or variable.attrs.get("standard_name") or ""
            dims = ", ".join(f"{dim} {size}" for dim, size in variable.sizes.items())
            rows.append((str(name), dims, str(variable.dtype), str(variable.attrs.get("units", "")), str(what)))
        return [columns(rows), "", *(f"{name}: {shortened(str(text))}" for name, text in ds.attrs.items())]


def describe_model(path: Path) -> list[str]:
    """What a model draws, on which grid, from which prior, and what it was told to obey. Raises InputError."""
    from sciguide.model import Model

    model = Model.load(path)
    layout = model.layout
    weights = sum(p.numel() for p in model.denoiser.network.parameters())
    lines = [
        f"channels   {', '.join(f'{n} [{u}]' for n, u in zip(layout.names, layout.units, strict=True))}",
        f"grid       {layout.y_name} {model.shape[1]} x {layout.x_name} {model.shape[2]}, "
        f"{layout.mask.mean():.1%} valid, boundary {', '.join(model.grid.boundary)}",
        f"network    {weights:,} weights; prior {model.prior.kind}; sigma {model.sigma_min:g} to {model.sigma_max:g}",
        f"data       {model.effective:.0f} effective samples, fingerprint {model.fingerprint[:12]}",
    ]
    if model.variance:
        weights = sum(p.numel() for p in model.variance.network.parameters())
        lines.append(f"variance   of the network's errors, {weights:,} weights")
    return lines + [f"equation   {e.name}: {describe_residual(e)}" for e in model.equations]


def describe_residual(equation: "EquationRecord") -> str:
    """How well the training data obey it, and how their residuals are spread over wavenumbers."""
    text = f"floor of the relative residual {equation.floor**0.5:.3g}"
    if not equation.octaves:
        return f"{text}, taken for white"
    names = [f"{n} " for n in equation.operator["residual"]["names"]] if len(equation.octaves) > 1 else [""]
    each = [f"{n}{of[-1]:.2g} and {of[0]:.2g}" for n, of in zip(names, equation.octaves, strict=True)]
    return f"{text}, in the longest and the shortest octave {', '.join(each)} times white noise's"


def describe_folder(folder: Path) -> list[str]:
    """What lies directly in a folder, each ensemble under it, and its model."""
    from sciguide.receipts import read_receipts, wanted

    lines = [f"{p.name + '/' * p.is_dir():<24} {size(p)}" for p in sorted(folder.iterdir()) if p.name != "receipts"]
    for ensemble in ensembles(folder):
        receipts = read_receipts(ensemble)
        runs = ", ".join(sorted({r.identity[:12] for r in receipts.values()})) or "none"
        lines.append(f"ensemble {ensemble}: {len(receipts)} of {wanted(ensemble)} members finished, run {runs}")
    if (folder / "model.pt").is_file():
        lines += ["", *describe_model(folder / "model.pt")]
    return lines or [f"{folder} is empty"]


def ensembles(folder: Path) -> list[Path]:
    """The folders of members in and under `folder`."""
    found = {p.parent for p in folder.rglob("member_*.nc")} | {p.parent.parent for p in folder.rglob("receipts/*.json")}
    return sorted(found)


def check_receipts(path: Path) -> int:
    """Compares every member under a folder with its receipt, says what differs; 1 if anything does, else 0."""
    from sciguide.receipts import verify, wanted

    folders = ensembles(path) if path.is_dir() else []
    if not folders:
        raise InputError(f"{path} holds no members and receipts to verify; give a run or a folder of members")
    problems = [f"{folder}: {problem}" for folder in folders for problem in verify(folder)]
    members = sum(wanted(folder) for folder in folders)
    print("\n".join(problems) or f"{members} members, each as its receipt says")
    return int(bool(problems))


def size(path: Path) -> str:
    """Bytes of a file, or of all files under a folder, in MiB."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return f"{sum(p.stat().st_size for p in files) / 2**20:.2f} MiB"


def shortened(text: str, most: int = 160) -> str:
    """One line of at most `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 4] + " ..."
