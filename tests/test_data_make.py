"""What `sciguide data make` writes: the samples, CF, the same bytes again; what is left when it dies, and goes on."""

import hashlib
import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from sciguide.cli import data_make, main
from sciguide.cli.data_make import make
from sciguide.errors import InputError
from sciguide.residuals import residual_of
from sciguide.simulate import NAMES, darcy_smooth, poisson, samples
from sciguide.simulate.darcy_walls import DarcyWalls


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "poisson.nc"
    make("poisson", str(path), size=24, samples=40, seed=3)
    return path


def test_file_holds_the_samples(made):
    with xr.open_dataset(made) as ds:
        assert dict(ds.sizes) == {"sample": 40, "y": 24, "x": 24}
        assert ds["f"].dtype == ds["phi"].dtype == np.float32 and ds["x"].attrs["units"] == "1"
        for name, fields in samples("poisson", 24, 3, 40).items():
            assert np.array_equal(ds[name], fields.astype(np.float32))
        out = residual_of(ds, "poisson")
    R = out["relative_rms"].values ** 2
    assert ds.attrs["R_data"] == max(np.quantile(R, 0.9), 1e-6)
    assert ds.attrs["R_rms"] == ds.attrs["R_rms_residual"] == pytest.approx(np.sqrt(R.mean()), rel=1e-6)
    assert ds.attrs["seed"] == 3 and ds.attrs["Conventions"] == "CF-1.11"
    with netCDF4.Dataset(made) as file:
        assert file["f"].chunking() == [1, 24, 24] and file["phi"].filters()["complevel"] == 1
        assert file["f"].filters()["shuffle"] and file["f"].filters()["fletcher32"]


def test_file_repeats_to_the_byte_and_a_larger_set_begins_with_a_smaller_one(made, tmp_path):
    again, larger = tmp_path / "again.nc", tmp_path / "larger.nc"
    make("poisson", str(again), size=24, samples=40, seed=3)
    make("poisson", str(larger), size=24, samples=50, seed=3)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(made.read_bytes()).digest()
    with xr.open_dataset(made) as a, xr.open_dataset(larger) as b:
        assert np.array_equal(a["f"], b["f"][:40])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.nc", "larger.nc"]


@pytest.fixture(scope="module")
def darcy(tmp_path_factory):
    """A set with a static field, as NetCDF and as Zarr."""
    folder = tmp_path_factory.mktemp("darcy")
    for suffix in (".nc", ".zarr"):
        make("darcy_smooth", str(folder / f"a{suffix}"), size=16, samples=35, seed=1)
    return folder


def test_static_field_stands_once_and_zarr_holds_the_same(darcy):
    with xr.open_dataset(darcy / "a.nc") as a, xr.open_zarr(darcy / "a.zarr") as b:
        assert a["f"].dims == ("y", "x") and a["K"].dims == ("sample", "y", "x")
        assert np.array_equal(a["f"], darcy_smooth.source(16))
        assert a.drop_attrs().identical(b.drop_attrs().load())
        assert all(a[name].attrs == b[name].attrs for name in a.variables)
        assert {k: np.asarray(v).tolist() for k, v in a.attrs.items()} == b.attrs | {}
        assert np.array_equal(a["p"], samples("darcy_smooth", 16, 1, 35)["p"].astype(np.float32))
        alone = residual_of(a, "darcy_expanded", boundary=("one-sided", "one-sided"))["relative_rms"].values
        whole = residual_of(a, DarcyWalls, boundary=("one-sided", "one-sided"))["relative_rms"].values
    assert a.attrs["R_rms_flow"] == pytest.approx(np.sqrt((alone**2).mean()), rel=1e-3)
    assert a.attrs["R_rms"] == pytest.approx(np.sqrt((whole**2).mean()), rel=1e-3)
    assert sorted(p.name for p in darcy.iterdir()) == ["a.nc", "a.zarr"]
    assert xr.open_zarr(darcy / "a.zarr")["K"].encoding["chunks"] == (1, 16, 16)


def test_files_obey_cf(made, darcy):
    command = [str(Path(sys.executable).with_name("compliance-checker")), "-t", "cf:1.11"]
    done = subprocess.run([*command, str(made), str(darcy / "a.nc")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.count("All tests passed!") == 2, done.stdout + done.stderr


def stopping(module, monkeypatch, after: int, error: BaseException) -> None:
    """Let `module.draw` fail at group `after`."""
    draw = module.draw

    def failing(n, seed, group):
        if group >= after:
            raise error
        return draw(n, seed, group)

    monkeypatch.setattr(module, "draw", failing)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_interrupted_make_goes_on(tmp_path, monkeypatch, suffix, capsys):
    out, plain = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    make("poisson", str(plain), size=8, samples=90)
    with monkeypatch.context() as patched:
        stopping(poisson, patched, 70, KeyboardInterrupt())
        capsys.readouterr()
        assert main(["data", "make", "poisson", "--out", str(out), "--size", "8", "--samples", "80"]) == 130
        assert capsys.readouterr().err == "interrupted\n"
    parts = tmp_path / f"a{suffix}.parts"
    assert not out.exists() and sorted(p.stem for p in parts.glob("*.npz")) == [
        "00000000-00000032",
        "00000032-00000064",
    ]
    for other in ({"seed": 1}, {"size": 9}):
        with pytest.raises(InputError, match=f"another set .{next(iter(other))}"):
            make(**{"name": "poisson", "out": str(out), "size": 8, "samples": 80} | other)
    asked = []
    with monkeypatch.context() as patched:
        draw = poisson.draw
        patched.setattr(poisson, "draw", lambda n, seed, group: asked.append(group) or draw(n, seed, group))
        make("poisson", str(out), size=8, samples=90)
    assert asked == list(range(64, 90)), "a larger set uses what a smaller one left"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([out.name, plain.name])
    with xr.open_dataset(out) as a, xr.open_dataset(plain) as b:
        assert a.identical(b)
    if suffix == ".nc":
        assert out.read_bytes() == plain.read_bytes()


def test_interruption_before_anything_is_finished_leaves_nothing(tmp_path, monkeypatch):
    out = tmp_path / "a.nc"
    make("poisson", str(out), size=8, samples=2)
    before = out.read_bytes()
    stopping(poisson, monkeypatch, 0, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        make("poisson", str(out), size=8, samples=4, overwrite=True)
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_what_is_there_is_kept_unless_told(tmp_path, suffix, capsys):
    out = tmp_path / f"a{suffix}"
    make("poisson", str(out), size=8, samples=2)
    make("poisson", str(out), size=8, samples=2)
    assert "2 samples of poisson are there already" in capsys.readouterr().out
    with pytest.raises(InputError, match="give another --out, or --overwrite"):
        make("poisson", str(out), size=8, samples=3)
    make("poisson", str(out), size=8, samples=3, overwrite=True)
    with xr.open_dataset(out) as ds:
        assert ds.sizes["sample"] == 3
    assert list(tmp_path.iterdir()) == [out]


def test_another_file_and_another_folder_are_not_touched(tmp_path):
    (tmp_path / "notes.nc").write_text("mine")
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "a.nc.parts").mkdir()
    (tmp_path / "a.nc.parts" / "mine").touch()
    with pytest.raises(InputError, match="was not made so"):
        make("poisson", str(tmp_path / "notes.nc"), size=8, samples=2)
    with pytest.raises(InputError, match="is a folder, and no Zarr store"):
        make("poisson", str(tmp_path / "folder.zarr"), size=8, samples=2, overwrite=True)
    with pytest.raises(InputError, match="was not made by this command"):
        make("poisson", str(tmp_path / "a.nc"), size=8, samples=2)
    assert (tmp_path / "notes.nc").read_text() == "mine" and (tmp_path / "a.nc.parts" / "mine").exists()


def test_damaged_part_is_named(tmp_path, monkeypatch):
    out = tmp_path / "a.nc"
    with monkeypatch.context() as patched:
        stopping(poisson, patched, 40, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            make("poisson", str(out), size=8, samples=64)
    part = next((tmp_path / "a.nc.parts").glob("*.npz"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(InputError, match="00000000-00000032.npz: damaged .*remove it"):
        make("poisson", str(out), size=8, samples=64)
    part.unlink()
    make("poisson", str(out), size=8, samples=64)
    assert list(tmp_path.iterdir()) == [out]


DYING = """
import os, resource, signal, sys
import numpy as np
from sciguide import parts, set_file
from sciguide.cli import main
from sciguide.cli.data_make import make
from sciguide.simulate.darcy_walls import DarcyWalls
from sciguide.simulate import poisson

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def after(calls, function):
    left = iter(range(calls))
    return lambda *args, **kwargs: die() if next(left, None) is None else function(*args, **kwargs)

def half(stream, **fields):
    stream.write(b"half")
    stream.flush()
    die()

def arm(place):
    if place == "drawing":
        poisson.draw = after(70, poisson.draw)
    elif place == "keeping a part":
        parts.np.savez = half
    elif place == "writing":
        set_file.NetCDF.write, set_file.Zarr.write = after(1, set_file.NetCDF.write), after(1, set_file.Zarr.write)
    else:
        parts.os.replace = after(4, os.replace)  # the identity and three parts have theirs

for place in ("drawing", "keeping a part", "writing", "publishing"):
    for suffix in (".nc", ".zarr"):
        child = os.fork()
        if child == 0:
            arm(place)
            make("poisson", f"{place}{suffix}", size=8, samples=90)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, place
        assert not os.path.exists(f"{place}{suffix}") and os.path.isdir(f"{place}{suffix}.parts"), place

for limit in (20000, 40000):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(f"full_{limit}.txt", os.O_WRONLY | os.O_CREAT), 2)
        os.dup2(2, 1)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        os._exit(main(f"data make poisson --size 10 --samples 70 --out full_{limit}.nc".split()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
"""


@pytest.fixture(scope="module")
def died(tmp_path_factory):
    """A folder with what is left by processes that die at every stage, by themselves so that they are sure to be
    there, or find no space: for that stands a limit of the size of a file, reached by a part, or by the whole."""
    folder = tmp_path_factory.mktemp("died")
    done = subprocess.run([sys.executable, "-c", DYING], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


def test_killed_make_leaves_no_broken_file_and_goes_on(died):
    left = sorted(p for p in died.glob("*.parts") if not p.name.startswith("full"))
    assert len(left) == 8
    make("poisson", str(died / "plain.nc"), size=8, samples=90)
    with xr.open_dataset(died / "plain.nc") as plain:
        for parts in left:
            out = parts.with_suffix("")
            assert not out.exists()
            make("poisson", str(out), size=8, samples=90)
            with xr.open_dataset(out) as ds:
                assert ds.drop_attrs().identical(plain.drop_attrs()) and ds.attrs == plain.attrs
            assert not parts.exists() and not list(died.glob(f"{out.name}.*"))


@pytest.mark.parametrize("limit, finished", [(20000, 0), (40000, 3)])
def test_full_disk_is_one_line_and_what_is_finished_stays(died, limit, finished):
    said, out = (died / f"full_{limit}.txt").read_text(), died / f"full_{limit}.nc"
    assert said.startswith("error: ") and said.count("\n") == 2, "the second is the hint"
    assert "could not be written" in said and "MB are free" in said
    parts = died / f"full_{limit}.nc.parts"
    assert not out.exists() and parts.exists() == bool(finished)
    assert len(list(parts.glob("*.npz"))) == finished and not (parts / "whole").exists()
    make("poisson", str(out), size=10, samples=70)
    assert out.exists() and not parts.exists()


def test_two_at_once_are_refused(tmp_path):
    from sciguide.parts import open_parts

    with open_parts(tmp_path / "a.nc.parts", {}), pytest.raises(InputError, match="another process works there"):
        make("poisson", str(tmp_path / "a.nc"), size=8, samples=2)


def test_memory_does_not_grow_with_the_samples(tmp_path):
    """Blocks are of 32 samples, however many there are, and however the parts were cut."""
    from sciguide.parts import open_parts

    rng = np.random.default_rng(0)
    field = rng.standard_normal((90, 3, 3)).astype(np.float32)
    with open_parts(tmp_path / "p", {"a": 1}) as parts:
        for first, stop in ((0, 5), (5, 40), (40, 41), (41, 90)):
            parts.append(first, stop, {"u": field[first:stop]})
        for count in (1, 32, 33, 80, 90):
            blocks = list(parts.blocks(count))
            assert [first for first, _ in blocks] == list(range(0, count, 32))
            assert np.array_equal(np.concatenate([b["u"] for _, b in blocks]), field[:count])


def test_progress_bar_appears_late(monkeypatch, capsys):
    steps = [(i,) for i in range(5)]
    assert list(data_make.with_progress(iter(steps), 5, "quick")) == steps
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(data_make, "PATIENCE", -1.0)
    assert list(data_make.with_progress(iter(steps), 5, "slow")) == steps


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"name": "poison"}, "did you mean 'poisson'"),
        ({"size": 3}, "at least 4"),
        ({"samples": 0}, "at least 4, 1"),
        ({"out": "no/such/folder/a.nc"}, "folder that exists"),
        ({"out": "a.csv"}, ".nc or .zarr"),
        ({"name": "darcy_smooth"}, "at least 16"),
    ],
)
def test_make_mistakes_are_named(arguments, says, tmp_path):
    with pytest.raises(InputError, match=says):
        make(**{"name": "poisson", "out": str(tmp_path / "a.nc"), "size": 8, "samples": 2} | arguments)


def test_help_has_a_line_for_every_set(capsys):
    assert main(["data", "make", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.split()[:1] == [name] for line in lines) for name in NAMES)
    assert max(map(len, data_make.overview().splitlines())) <= 110


def test_help_needs_no_torch():
    heavy = ("torch", "xarray", "sympy", "numpy")
    code = f"import sys, sciguide.cli.data_make; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
