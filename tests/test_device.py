"""Generating and tuning on a device: the same members as on the CPU, and no operation on tensors of two devices.

The device only pretends (`elsewhere.py`): values are the CPU's, so the comparison is nearly exact, and everything that
was left on the host raises. On a machine with a GPU `pytest -m gpu` does the same there. The cases run in a child, as
torch cannot forget a device.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from device_child import cases

import sciguide
from sciguide.cli import main
from sciguide.device import CPU, find_device, model_of
from sciguide.errors import InputError

TOLERANCE = {"elsewhere": 1e-6, "cuda": 1e-3}  # standard deviations of a field; members are float32, and the network
# numbers that the host asks for in three steps, each of which a GPU waits for
READS = {"unguided": 4, "down the gradient": 5, "observations": 8, "a linear equation": 40}


def run(device: str, folder: Path) -> dict[str, dict]:
    """What the child says of every case."""
    tests = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(tests / "device_child.py"), device, str(folder)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=600)
    found = {row["case"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0 and list(found) == list(cases()), done.stderr[-3000:]
    return found


@pytest.fixture(scope="module")
def pretended(tmp_path_factory) -> dict[str, dict]:
    return run("elsewhere", tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def on_a_gpu(tmp_path_factory) -> dict[str, dict]:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return run("cuda", tmp_path_factory.mktemp("cuda"))


@pytest.mark.parametrize("case", cases())
def test_everything_is_on_the_device(pretended, case):
    assert not pretended[case]["raised"]
    assert pretended[case]["off"] <= TOLERANCE["elsewhere"]
    assert pretended[case]["reads"] <= READS.get(case, 10**9)


@pytest.mark.gpu
@pytest.mark.parametrize("case", cases())
def test_a_gpu_finds_what_the_cpu_does(on_a_gpu, case):
    assert not on_a_gpu[case]["raised"]
    assert on_a_gpu[case]["off"] <= TOLERANCE["cuda"]


def test_a_device_that_is_not_there_is_one_line(tmp_path, capsys):
    (tmp_path / "model.pt").touch()
    for words in (["generate", str(tmp_path)], ["tune", str(tmp_path)], ["bench", "kernels"]):
        for device in ("cuda:77", "nonsense", "meta"):
            assert main([*words, f"--device={device}"]) == 2
            assert f"--device {device}: " in capsys.readouterr().err.splitlines()[0]
    with pytest.raises(InputError, match="--device meta"):
        find_device("meta")
    assert find_device("cpu") == CPU and model_of(CPU) == "cpu" and sciguide.load
