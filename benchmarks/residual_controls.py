"""Residuals of real fields beside those of the same fields with one mistake in them.

    python -m benchmarks.residual_controls --data PATH

PATH holds the folders erai_uvz, ncep_june, globcurrent, lid_cavity, darcy and aviso_ssh. A residual that is worth a
reward is several times larger for the wrong unit, sign, month, viscosity or orientation than for the data themselves.
Inputs rounded to half precision are no mistake but a loss: refused where they overflow, else as bad as the digits that
they cost.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from benchmarks.mistakes import ROUNDED, Change, changed, exchanged, negated, times, upside_down
from benchmarks.tables import RESULTS, write_table
from sciguide.errors import InputError
from sciguide.residuals import residual_of

GRAVITY = 9.80665
CAVITY = slice(4, -4)  # away from the lid's corners, where velocity jumps
NU = 0.01  # of the cavity
CURRENTS = {"u": "eastward_eulerian_current_velocity", "v": "northward_eulerian_current_velocity"}


class Case(NamedTuple):
    """Fields, the size of their residual (relative, a number), and mistakes. `friction`: the balance itself is rough,
    so that a mistake need only be worse."""

    data: str
    name: str
    ds: xr.Dataset
    measure: Callable[[xr.Dataset], float]
    mistakes: dict[str, Change]
    friction: bool = False


def over_wind(ds: xr.Dataset, out: xr.Dataset, u: str, v: str, band: tuple[float, float] | None = None) -> float:
    """rms of the residual's two components over that of (u, v) in the same cells, area-weighted, in a band of
    latitudes on both hemispheres."""
    latitude = ds[next(d for d in ds[u].dims if str(d).startswith("lat"))]
    r2 = (out["residual"] ** 2).sum("component", skipna=False)
    low, high = band or (0, 90)
    weight = np.cos(np.deg2rad(latitude)).where((abs(latitude) >= low) & (abs(latitude) <= high) & r2.notnull())
    return float(np.sqrt((weight * r2).sum() / (weight * (ds[u] ** 2 + ds[v] ** 2)).sum()))


def reanalysis(folder: Path) -> Iterator[Case]:
    """ERA-Interim wind and geopotential, 20 to 80 degrees."""
    whole = xr.open_dataset(next(folder.glob("*.nc"))).load()

    def measure(ds: xr.Dataset) -> float:
        return over_wind(ds, residual_of(ds, "geostrophic"), "u", "v", (20, 80))

    for month, other in ((1, 7), (7, 1)):
        for level in (200, 500, 850):
            ds = whole.sel(month=month, level=level)
            instead = whole["z"].sel(month=other, level=level, drop=True)
            mistakes = {
                "geopotential taken for metres": times("z", 1 / GRAVITY),
                "v negated": negated("v"),
                "geopotential of the other month": changed("z", lambda a, b=instead: a.copy(data=b.values)),
                "u and v exchanged": exchanged("u", "v"),
                "latitude reversed": upside_down("latitude"),
            }
            yield Case("erai_uvz", f"month {month}, {level} hPa", ds, measure, mistakes, friction=level == 850)


def climatology(folder: Path) -> Iterator[Case]:
    """NCEP winds and heights on Gaussian latitudes, 17 levels."""
    whole = xr.open_dataset(next(folder.glob("*.nc")), decode_times=False)[["U", "V", "T", "Z3"]].load()
    whole = whole.isel(time=0, drop=True)

    def geostrophic(ds: xr.Dataset) -> float:
        out = residual_of(ds[["U", "V", "Z3"]], "geostrophic_height", fields={"height": "Z3"})
        return over_wind(ds, out, "U", "V", (20, 80))

    def hydrostatic(ds: xr.Dataset) -> float:
        out = residual_of(ds[["T", "Z3"]], "hydrostatic_height", fields={"height": "Z3"})
        return float(out["relative_rms"])

    for level in (500, 250):
        mistakes = {
            "height in feet": times("Z3", 1 / 0.3048),
            "v negated": negated("V"),
            "u and v exchanged": exchanged("U", "V"),
            "latitude reversed": upside_down("lat"),
        }
        yield Case("ncep_june", f"geostrophic, {level} hPa", whole.sel(lev=level), geostrophic, mistakes)
    mistakes = {
        "temperature in degrees Celsius": changed("T", lambda a: a - 273.15),
        "geopotential for height": times("Z3", GRAVITY),
        "levels reversed": upside_down("lev"),
        "temperature one level off": changed("T", lambda a: a.roll(lev=1)),
    }
    yield Case("ncep_june", "hydrostatic", whole, hydrostatic, mistakes)


def currents(folder: Path) -> Iterator[Case]:
    """GlobCurrent, ten months: divergence over vorticity. The ratio has no units to mistake."""
    files = sorted(folder.glob("*.nc"))
    ds = xr.concat([xr.load_dataset(f, decode_times=False) for f in files], "time")
    u, v = CURRENTS.values()

    def measure(ds: xr.Dataset) -> float:
        return float(np.sqrt((residual_of(ds, "nondivergence", fields=CURRENTS)["relative_rms"] ** 2).mean()))

    mistakes = {"v negated": negated(v), "latitude reversed": upside_down("lat"), "u and v exchanged": exchanged(u, v)}
    yield Case("globcurrent", "divergence over vorticity", ds, measure, mistakes)


def cavity_terms(ds: xr.Dataset) -> float:
    """rms of the momentum residual at viscosity `ds.nu`, over that of its largest term, inside the cavity,
    area-weighted."""
    area = (np.gradient(ds["y"])[:, None] * np.gradient(ds["x"]))[CAVITY, CAVITY]
    zero = ds.map(np.zeros_like, keep_attrs=True)
    moving = ds.assign(p=zero["p"])

    def momentum(ds: xr.Dataset, nu: float) -> np.ndarray:
        return residual_of(ds, "navier_stokes_steady", nu=nu)["residual"][:2, CAVITY, CAVITY].values

    def size(r: np.ndarray) -> float:
        return float(np.sqrt((area * r**2).sum() / area.sum()))

    advection, pressure = momentum(moving, 0.0), momentum(zero.assign(p=ds["p"]), 0.0)
    terms = advection, pressure, momentum(moving, NU) - advection
    return size(momentum(ds, float(ds.attrs["nu"]))) / max(map(size, terms))


def cavity(folder: Path) -> Iterator[Case]:
    """A steady lid-driven cavity at four speeds of the lid, viscosity 0.01."""
    for path in sorted(folder.glob("*.nc")):
        ds = xr.load_dataset(path)
        mistakes = {
            "viscosity doubled": lambda ds: ds.assign_attrs(nu=2 * NU),
            "viscosity halved": lambda ds: ds.assign_attrs(nu=NU / 2),
            "pressure negated": negated("p"),
            "v negated": negated("v"),
            "u and v exchanged": exchanged("u", "v"),
            "upside down": upside_down("y"),
        }
        yield Case("lid_cavity", path.stem, ds, cavity_terms, mistakes)


def one_phase(mask: np.ndarray) -> np.ndarray:
    """Cells (N, Y, X) whose five-point stencil lies in one phase."""
    inner, out = mask[:, 1:-1, 1:-1], np.zeros(mask.shape, bool)
    around = mask[:, 2:, 1:-1], mask[:, :-2, 1:-1], mask[:, 1:-1, 2:], mask[:, 1:-1, :-2]
    out[:, 1:-1, 1:-1] = np.all([inner == n for n in around], 0)
    return out


def porous(folder: Path) -> Iterator[Case]:
    """Two-phase Darcy flow: -div(a grad u) = 1, the median over cells in one phase of |r|."""
    source = xr.load_dataset(next(folder.glob("*.nc")))
    cells = one_phase(source["k_mask"].values)
    K = xr.where(source["k_mask"] == 1, 0.36, 0.02)
    ds = xr.Dataset({"K": K, "p": source["u"], "f": xr.ones_like(K)})
    for variable in ds.data_vars.values():
        variable.attrs["units"] = "1"

    def measure(ds: xr.Dataset) -> float:
        return float(np.median(abs(residual_of(ds, "darcy")["residual"].values[cells])))

    mistakes = {
        "permeabilities 12 and 3": changed("K", lambda a: xr.where(a > 0.1, 12.0, 3.0)),
        "permeabilities exchanged": changed("K", lambda a: 0.38 - a),
        "source negated": negated("f"),
        "head in cm": times("p", 100.0),
        "head of another sample": changed("p", lambda a: a.roll(sample=1)),
        "upside down": lambda ds: ds.assign(p=upside_down("y")(ds)["p"]),
    }
    yield Case("darcy", "cells in one phase, median", ds, measure, mistakes)


def altimetry(folder: Path) -> Iterator[Case]:
    """Black Sea: absolute dynamic topography and the geostrophic velocities that come with it."""
    ds = xr.load_dataset(next(folder.glob("*blacksea*.nc")))[["adt", "ugos", "vgos"]]
    mistakes = {
        "height in cm": times("adt", 100.0),
        "v negated": negated("vgos"),
        "u and v exchanged": exchanged("ugos", "vgos"),
        "latitude reversed": upside_down("latitude"),
    }

    def measure(ds: xr.Dataset) -> float:
        return over_wind(ds, residual_of(ds, "geostrophic_height"), "ugos", "vgos")

    yield Case("aviso_ssh", "geostrophic", ds, measure, mistakes)


SETS = {
    "erai_uvz": reanalysis,
    "ncep_june": climatology,
    "globcurrent": currents,
    "lid_cavity": cavity,
    "darcy": porous,
    "aviso_ssh": altimetry,
}


def rows_of(case: Case) -> Iterator[dict]:
    """The data, then each mistake: its residual and how many times that of the data, or that it is refused."""
    real = case.measure(case.ds)
    yield {"data": case.data, "case": case.name, "fields": "as they are", "residual": real, "times": 1.0}
    for name, change in {**case.mistakes, **ROUNDED}.items():
        try:
            found: float | str = case.measure(change(case.ds))
        except InputError:
            found = "refused"
        ratio = found / real if isinstance(found, float) else "refused"
        yield {"data": case.data, "case": case.name, "fields": name, "residual": found, "times": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real sets")
    data = parser.parse_args().data
    rows = [row for name, cases in SETS.items() for case in cases(data / name) for row in rows_of(case)]
    write_table(
        RESULTS / "residual_controls.csv", rows, "relative residuals of real fields, and of fields with a mistake"
    )


if __name__ == "__main__":
    main()
