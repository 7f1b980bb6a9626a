"""What a wheel holds: the linked folders as real files, the shipped data, and no second package beside sciguide."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, as setuptools leaves a `build` folder behind whose stale modules enter the next wheel."""
    source, out = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(
        ".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "shared", "demo", "tests"
    )
    shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_wheel_holds_the_linked_folders_and_the_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("kernels", "datasets"):
        assert {f"sciguide/{folder}/{p.relative_to(ROOT / folder)}" for p in (ROOT / folder).rglob("*.py")} <= names
    data = [*(ROOT / "configs").glob("*.yaml"), *(p for p in (ROOT / "sciguide/templates").glob("*") if p.is_file())]
    assert {f"sciguide/{p.parent.name}/{p.name}" for p in data} <= names
    assert {n.partition("/")[0] for n in names if ".dist-info/" not in n} == {"sciguide"}


def test_wheel_works_by_itself(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "import sciguide, sciguide.kernels, sciguide.datasets as d; print(sciguide.__version__, d.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    version, file = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path)
    assert wheel.name.startswith(f"sciguide-{version}-")
