"""Member files: CF-1.11, whole or absent, the same bytes from every process, and damage is noticed.

Run as a script this file is the child of the tests: `write DIR MEMBERS` lets four processes write members and report
each, `full DIR` hits a file size limit in the middle of a file.
"""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sciguide import receipts
from sciguide.atomic import write_atomically
from sciguide.cf import cell_bounds
from sciguide.errors import InputError
from sciguide.noise import normal
from sciguide.receipts import begin, finished, identity, verify
from sciguide.writer import GLOBALS, Trace, open_ensemble, write_member

RUN = identity("abc", {"steps": 20}, "0.1.0")
ATTRIBUTES = {name: f"the {name}" for name in GLOBALS}
TRACE = Trace([2.0, 0.5], [[0.0, 1.0, -1.0], [0.5, 0.0, 0.25]], ("darcy, band 0", "darcy, band 1", "field p"))


def darcy(member: int = 0, size: int = 48) -> xr.Dataset:
    """A member on a plane without units."""
    u = normal(1, member, 0, (2, size, size))
    coords = {d: (d, np.arange(size) / size) for d in "yx"}
    return xr.Dataset({"p": (("y", "x"), u[0], {"units": "m"}), "K": (("y", "x"), u[1], {"units": "m s-1"})}, coords)


def ocean(level: bool = False) -> xr.Dataset:
    """Latitude and longitude, land, and every bad habit of source files; with pressure levels on request."""
    dims, shape = ("lat", "lon"), (5, 7)
    lat = ("lat", np.linspace(90, 70, 5), {"Unit": "degrees north", "actual_range": [70.0, 90.0]})
    coords: dict = {"lat": lat, "lon": ("lon", np.arange(7) * 2.5, {"units": "degrees_east"})}
    if level:
        dims, shape = ("level", *dims), (3, *shape)
        coords["level"] = ("level", np.array([850, 500, 200]), {"units": "millibars", "long_name": "Level"})
    else:
        coords["depth"] = ((), 15.0, {"units": "m", "standard_name": "depth", "positive": "down", "axis": "Z"})
    values = normal(2, 0, 0, shape)
    values[..., 0, :2] = np.nan
    stale = {"cell_methods": "time: mean", "valid_range": [0.0, 1.0], "add_offset": 3.0, "flag_meanings": "a b"}
    u = (dims, values, {"Unit": "m/s", "standard_name": "eastward_sea_water_velocity", **stale})
    v = (dims, values, {"units": "m/s", "standard_name": "northward_velocity_of_the_sea"})
    t = (dims, values, {"units": "degC", "standard_name": "eastward_wind", "ncep:name": "x"})
    return xr.Dataset({"u": u, "v": v, "t": t}, coords, {"Conventions": "COARDS", "history": "made on Monday"})


def projected() -> xr.Dataset:
    ds = darcy(size=8)
    for axis in "xy":
        ds[axis].attrs = {"units": "m", "standard_name": f"projection_{axis}_coordinate"}
    ds["crs"] = xr.DataArray(np.int32(0), attrs={"grid_mapping_name": "polar_stereographic", "semi_major_axis": 6.4e6})
    ds["crs"].attrs |= {"straight_vertical_longitude_from_pole": 0.0, "latitude_of_projection_origin": 90.0}
    ds["crs"].attrs |= {
        "false_easting": 0.0,
        "false_northing": 0.0,
        "standard_parallel": 70.0,
        "inverse_flattening": 298.0,
    }
    ds["p"].attrs["grid_mapping"] = ds["K"].attrs["grid_mapping"] = "crs"
    return ds


def put(directory, ds, member=0, **kwargs):
    kwargs = {"identity": RUN, "seed": 3, "attributes": ATTRIBUTES, **kwargs}
    return write_member(directory, ds, member, **kwargs)


def fill(directory, members, **kwargs):
    begin(directory, members, RUN)
    return [put(directory, darcy(m, 8), m, residuals={"darcy": (1e-3 * m, 2e-3)}, **kwargs) for m in range(members)]


def child(*arguments, **kwargs):
    return subprocess.Popen([sys.executable, __file__, *map(str, arguments)], text=True, **kwargs)


def test_compliance_checker_finds_nothing(tmp_path):
    metres = darcy(size=8)
    metres["y"].attrs["units"] = metres["x"].attrs["units"] = "m"
    snapshots = ocean(True).expand_dims(time=np.array(["2001-01-01", "2001-01-02"], "M8[ns]"))
    cases = {
        "ocean": ocean(),
        "levels": ocean(True),
        "times": snapshots,
        "plane": darcy(size=8),
        "metres": metres,
        "projected": projected(),
        "one_latitude": ocean().isel(lat=[2]),
    }
    for name, ds in cases.items():
        begin(tmp_path / name, 1, RUN)
        put(tmp_path / name, ds, residuals={"geostrophic": (0.1, 0.2), "mass": (0.3, 0.4)}, trace=TRACE)
    checker = Path(sys.executable).parent / "compliance-checker"
    files = [str(tmp_path / name / "member_00000.nc") for name in cases]
    out = subprocess.run([checker, "-t", "cf:1.11", *files], capture_output=True, text=True)
    assert out.returncode == 0, out.stdout + out.stderr
    assert out.stdout.count("All tests passed!") == len(cases), out.stdout


def test_what_a_file_says(tmp_path):
    source = ocean(True)
    begin(tmp_path, 18, RUN)
    receipt = put(tmp_path, source, 17, residuals={"mass": (0.25, 0.5)}, trace=TRACE)
    assert receipt.name == "member_00017.nc" and receipt.bytes == (tmp_path / receipt.name).stat().st_size
    with xr.open_dataset(tmp_path / receipt.name) as ds:
        assert ds.u.dims == ("realization", "level", "lat", "lon") and ds.u.dtype == np.float32
        for name in "uvt":
            np.testing.assert_array_equal(ds[name].values[0], source[name].values)
            assert all(linked in ds.variables for linked in ds[name].attrs["ancillary_variables"].split())
        assert ds.u.encoding["_FillValue"] > 1e36 and ds.u.encoding["fletcher32"]
        assert ds.u.encoding["chunksizes"] == (1, 1, 5, 7)
        assert ds.realization.values.tolist() == [17] and ds.realization.dtype == np.int32
        assert ds.pde_residual_mass.values.tolist() == [0.25] and ds.pde_residual_floor_mass.values.tolist() == [0.5]
        assert ds.seed.values.tolist() == [3] and ds.seed.dtype == np.int64
        np.testing.assert_array_equal(ds.policy_action.values[0], TRACE.action)
        assert ds.policy_sigma.values.tolist() == TRACE.sigma and "1: darcy, band 1" in ds.action.attrs["comment"]
        assert ds.u.attrs["units"] == "m/s" and ds.u.attrs["standard_name"] == "eastward_sea_water_velocity"
        assert ds.v.attrs["source_standard_name"] == "northward_velocity_of_the_sea"
        assert ds.t.attrs["source_standard_name"] == "eastward_wind"
        assert ds.attrs["sciguide_run_id"] == RUN and ds.attrs["comment"] == "Synthetic fields; not observations"
        assert ds.lat_bnds.values[0].tolist() == [90.0, 87.5] and ds.level.dtype == np.int32


def test_bounds_by_hand():
    assert cell_bounds(np.array([0.0, 1.0, 3.0])).tolist() == [[-0.5, 0.5], [0.5, 2.0], [2.0, 4.0]]
    assert cell_bounds(np.array([90.0, 60.0]), -90, 90).tolist() == [[90.0, 75.0], [75.0, 45.0]]


def test_flush_replace_flush_in_this_order(tmp_path, monkeypatch):
    begin(tmp_path, 1, RUN)
    events, opened = [], {}

    def recording(name, original, label):
        def call(*args, **kwargs):
            result = original(*args, **kwargs)
            if name == "open":
                opened[result] = str(args[0])
            else:
                events.append(f"{name} {label(*args)}")
            return result

        return call

    def base(path):
        path = os.path.relpath(path, tmp_path)
        return path.split(".")[0] + ".part" if path.endswith(".part") else path

    monkeypatch.setattr(xr.Dataset, "to_netcdf", recording("write", xr.Dataset.to_netcdf, lambda ds, path: base(path)))
    monkeypatch.setattr(os, "open", recording("open", os.open, None))
    monkeypatch.setattr(os, "fsync", recording("fsync", os.fsync, lambda fd: base(opened[fd])))
    monkeypatch.setattr(os, "replace", recording("replace", os.replace, lambda a, b: f"{base(a)} {base(b)}"))
    put(tmp_path, darcy())
    assert events == [
        "write member_00000.part",
        "fsync member_00000.part",
        "replace member_00000.part member_00000.nc",
        "fsync .",
        "fsync receipts/member_00000.part",
        "replace receipts/member_00000.part receipts/member_00000.json",
        "fsync receipts",
    ]


def test_killed_writers_leave_whole_files_and_lose_nothing(tmp_path):
    """R1, R2, R3, R7 in small: four processes at a time on one folder, killed at random moments, twice."""
    chance, reported = random.Random(0), set()
    for _ in range(2):
        writers = set()
        with child("write", tmp_path / "killed", 400, stdout=subprocess.PIPE) as first:
            while len(writers) < 4:
                pid, member = map(int, first.stdout.readline().split())
                writers.add(pid)
                reported.add(member)
            for pid in writers:
                time.sleep(chance.uniform(0.0, 0.1))
                os.kill(pid, signal.SIGKILL)
            # To the end of the pipe, which comes when all four are dead.
            reported |= {int(line.split()[1]) for line in first.stdout}
        done = finished(tmp_path / "killed", RUN, verify=True)
        assert reported <= done
        begin(tmp_path / "whole", 400, RUN)
        for path in sorted((tmp_path / "killed").glob("member_*.nc")):
            member = int(path.stem[7:])
            expected = put(tmp_path / "whole", darcy(member), member)
            assert hashlib.sha256(path.read_bytes()).hexdigest() == expected.sha256
    assert len(reported) >= 2
    begin(tmp_path / "killed", 400, RUN)
    assert not list((tmp_path / "killed").rglob("*.part"))


def test_a_full_disk_is_a_clear_refusal(tmp_path):
    begin(tmp_path, 10**9, RUN)
    with pytest.raises(InputError, match=rf"{tmp_path}: 1000000000 members need 5\d+ bytes and \d+ are free"):
        receipts.require_space(tmp_path, 10**9, 10**9 // 2)
    out = child("full", tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stdout, stderr = out.communicate()
    assert out.returncode == 3 and "member_00000.nc could not be written" in stdout, stdout + stderr
    assert "bytes needed" in stdout and "free" in stdout
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.glob("*.nc")) and finished(tmp_path, RUN) == set()
    (tmp_path / "again").mkdir()
    assert fill(tmp_path, 1)[0].sha256 == fill(tmp_path / "again", 1)[0].sha256


def test_corruption_is_noticed(tmp_path):
    fill(tmp_path, 3)
    assert verify(tmp_path) == []
    path, whole = tmp_path / "member_00001.nc", (tmp_path / "member_00001.nc").read_bytes()
    for damage in [whole[:-1], b"", *(_flipped(whole, bit) for bit in range(7, 8 * len(whole), len(whole) // 4))]:
        path.write_bytes(damage)
        (problem,) = verify(tmp_path)
        assert problem.startswith("member_00001.nc")
        assert finished(tmp_path, RUN, verify=True) == {0, 2}
    path.write_bytes(whole)
    assert verify(tmp_path) == [] and finished(tmp_path, RUN) == {0, 1, 2}


def _flipped(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def test_a_plain_read_notices_a_flipped_bit_in_a_field(tmp_path):
    fill(tmp_path, 1)
    whole = (tmp_path / "member_00000.nc").read_bytes()
    starts = [i for i in range(len(whole) - 1) if whole[i : i + 2] == b"\x78\x01"]  # where deflate streams begin
    assert starts
    for number, start in enumerate(starts):
        copy = tmp_path / f"flipped_{number}.nc"  # a new name: HDF5 keeps files that failed
        copy.write_bytes(_flipped(whole, 8 * (start + 40)))
        with pytest.raises((OSError, RuntimeError)), xr.open_dataset(copy) as ds:
            ds.load()


def test_reading_back(tmp_path):
    begin(tmp_path, 12, RUN)
    for m in reversed(range(12)):
        put(tmp_path, ocean(True) + m, m, seed=m, residuals={"mass": (m / 10, 0.5)}, trace=TRACE)
    ds = open_ensemble(tmp_path)
    assert ds.realization.values.tolist() == list(range(12)) and ds.u.chunks[0] == (1,) * 12
    assert ds.seed.values.tolist() == list(range(12)) and ds.pde_residual_mass.values[3] == 0.3
    assert ds.policy_action.shape == (12, 2, 3) and ds.sizes["level"] == 3
    np.testing.assert_array_equal(ds.v.values[5], (ocean(True).v + 5).values)


@pytest.mark.parametrize("gone", [0, 1, 3])
def test_a_missing_member_never_looks_like_data(tmp_path, gone):
    fill(tmp_path, 4)
    receipts.receipt_path(tmp_path, gone).unlink()
    with pytest.raises(InputError, match=f"members {gone} are missing or unfinished"):
        open_ensemble(tmp_path)
    assert verify(tmp_path) == [f"member_{gone:05d}.nc: no readable receipt"]
    receipts.member_path(tmp_path, gone).unlink()
    with pytest.raises(InputError, match=f"members {gone} are missing or unfinished"):
        open_ensemble(tmp_path)
    assert verify(tmp_path) == [f"member_{gone:05d}.nc: missing"] and finished(tmp_path, RUN) == {0, 1, 2, 3} - {gone}


def test_two_runs_are_never_mixed(tmp_path):
    fill(tmp_path, 2)
    other = identity("abc", {"steps": 21}, "0.1.0")
    with pytest.raises(InputError, match="another run"):
        begin(tmp_path, 2, other)
    put(tmp_path, darcy(1, 8), 1, identity=other)
    with pytest.raises(InputError, match="more than one run"):
        open_ensemble(tmp_path)
    assert verify(tmp_path) == ["members of more than one run"] and finished(tmp_path, RUN) == {0}


def test_an_unreadable_receipt_is_an_unfinished_member(tmp_path):
    fill(tmp_path, 3)
    for member, text in ((0, "{"), (1, json.dumps({"member": 1}))):
        receipts.receipt_path(tmp_path, member).write_text(text)
    shutil.copy(receipts.receipt_path(tmp_path, 2), receipts.receipt_path(tmp_path, 0))
    assert begin(tmp_path, 3, RUN) == {2}


def test_leftovers_go_but_not_of_a_live_writer(tmp_path):
    fill(tmp_path, 1)
    dead = tmp_path / "member_00007.nc.0a1b2c3d.part"
    dead.write_bytes(b"half")
    with receipts.lock(tmp_path, alone=False):
        assert receipts.remove_leftovers(tmp_path) == 0 and dead.exists()
    assert receipts.remove_leftovers(tmp_path) == 1 and not dead.exists()


def test_a_failed_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    write_atomically(target, lambda part: part.write_text("old"))

    def fails(part):
        part.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(target, fails)
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_identity():
    assert identity("a", {"x": 1, "y": [2.5, None]}, "1") == identity("a", {"y": [2.5, None], "x": 1}, "1")
    all_different = {
        RUN,
        *(identity(*a) for a in (("a", {}, "1"), ("b", {}, "1"), ("a", {"x": 0}, "1"), ("a", {}, "2"))),
    }
    assert len(all_different) == 5
    with pytest.raises(ValueError):
        identity("a", {"x": float("nan")}, "1")


def test_what_cannot_be_written_is_refused(tmp_path):
    begin(tmp_path, 1, RUN)
    with pytest.raises(InputError, match="seed"):
        put(tmp_path, darcy(), seed=2**63)
    with pytest.raises(ValueError, match="title"):
        put(tmp_path, darcy(), attributes={})
    with pytest.raises(ValueError, match="trace"):
        put(tmp_path, darcy(), trace=Trace([1.0], [[1.0, 2.0]], ("only one",)))


def main(task: str, directory: str, members: str = "1") -> int:
    begin(directory, int(members), RUN)
    if task == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    else:  # four writers for the price of one start, before any of them has touched a NetCDF file
        os.fork()
        os.fork()
    for member in range(int(members)):
        try:
            if member not in finished(directory, RUN):
                put(directory, darcy(member), member)
                os.write(1, f"{os.getpid()} {member}\n".encode())
        except OSError as error:
            print(error)
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
