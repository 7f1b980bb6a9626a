"""Where a model and what guides it are computed: the CPU, or a GPU.

Tensors follow the model's own: its network, its prior, and whatever is derived from these lie on one device, and noise,
observations and truths are moved there. On the host stay Philox, policies and what they learn from, which are a few
numbers a step, SciPy's sparse factors (`field_step.py`), and everything that is read or written.
"""

import torch

from sciguide.errors import InputError

CPU = torch.device("cpu")


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name: cpu, cuda, cuda:1. On a GPU convolutions are float32 from then on, as they are on a CPU:
    torch's default there, TF32, keeps ten bits. Raises InputError where torch has no such device, or no float64 on it.
    """
    try:
        found = torch.ones(1, dtype=torch.float64, device=name)
        float(found)  # what cannot be read, as on `meta`, is no device to compute on
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from error
    if found.device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return found.device


def model_of(device: torch.device) -> str:
    """What rounds like it: `cpu`, or a GPU's own name, whichever of several it is."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
