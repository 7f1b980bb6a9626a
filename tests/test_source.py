"""Generated modules: whole or absent, private, the same for eight processes that write them at once."""

import os
import stat
import subprocess
import sys

import pytest

from sciguide.kernels import source

WRITER = """
import sys
from sciguide.kernels.source import load_source
for n in range(40):
    module = load_source("race", f"VALUE = {n}\\n" + "# filler\\n" * 5000 + f"LAST = {n}\\n")
    assert (module.VALUE, module.LAST) == (n, n)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SCIGUIDE_CACHE", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_private_and_loaded_once(folder):
    old = os.umask(0)
    try:
        module = source.load_source("first", "A = [1]\n")
    finally:
        os.umask(old)
    assert module.A == [1] and module is source.load_source("first", "A = [1]\n")
    (file,) = folder.glob("first_*.py")
    assert mode(folder) == 0o700 and mode(file) == 0o600 and file.read_text() == "A = [1]\n"
    assert source.load_source("first", "A = [2]\n").A == [2]
    assert not list(folder.glob(".first*"))


def test_the_default_is_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("SCIGUIDE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert source.cache_folder() == (tmp_path / "xdg" / "sciguide" / "kernels").resolve()
    assert mode(source.cache_folder()) == 0o700
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert source.cache_folder() == (tmp_path / "home" / ".cache" / "sciguide" / "kernels").resolve()


def test_a_key_spares_the_printing(folder):
    calls = []

    def text():
        calls.append(1)
        return "B = 5\n"

    key = source.digest("what it is made from", "1")
    assert source.load_source("second", text, key).B == 5
    sys.modules.pop(f"second_{key}")
    assert source.load_source("second", text, key).B == 5 and calls == [1]
    assert source.digest("ab", "c") != source.digest("a", "bc")


def test_a_damaged_file_is_written_again(folder):
    source.load_source("third", "C = 1\n")
    (file,) = folder.glob("third_*.py")
    file.write_text("C = 2\n")
    sys.modules.pop(file.stem)
    assert source.load_source("third", "C = 1\n").C == 1


def test_what_fails_leaves_nothing(folder, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        source.load_source("broken", "1 / 0\n")
    assert not any(name.startswith("broken_") for name in sys.modules)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        source.load_source("fourth", "D = 1\n")
    assert not list(folder.glob("*fourth*"))


def test_eight_processes_at_once(folder):
    command = [sys.executable, "-B", "-c", WRITER]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    for child in children:
        assert child.communicate(timeout=60)[1] == "" and child.returncode == 0
    files = sorted(p.name for p in folder.iterdir())
    assert len(files) == 40 and all(f.startswith("race_") and f.endswith(".py") for f in files)


@pytest.mark.parametrize("bits", [0o770, 0o702, 0o777])
def test_a_folder_that_others_may_write_is_refused(folder, bits):
    folder.mkdir()
    folder.chmod(bits)
    with pytest.raises(PermissionError, match="written by others"):
        source.load_source("fifth", "E = 1\n")
    assert not list(folder.iterdir())


def test_a_folder_of_another_user_is_refused(folder, monkeypatch):
    folder.mkdir(mode=0o700)
    owner = folder.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(PermissionError, match="another user"):
        source.load_source("sixth", "F = 1\n")


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCIGUIDE_CACHE", str(tmp_path / "file" / "kernels"))
    with pytest.raises(OSError, match="SCIGUIDE_CACHE"):
        source.cache_folder()
