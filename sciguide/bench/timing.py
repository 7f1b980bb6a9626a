"""Seconds of calls on a CPU or a GPU: the median and the 20th and 80th percentile, of many taken side by side."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Call = Callable[[], Any]
ROUNDS = 5  # on a CPU all calls take turns so many times, so that what else the machine does falls on all of them
LATENCY_CALLS = 200


class Timing(NamedTuple):
    """Seconds."""

    median: float
    p20: float
    p80: float


NEVER = Timing(float("nan"), float("nan"), float("nan"))


def measure(calls: Mapping[str, Call], device: str, seconds: float) -> dict[str, Timing]:
    """Every call's timing, `seconds` spent on each. On a GPU the L2 cache is emptied before each call."""
    if device == "cpu":
        return in_turns(calls, seconds)
    from triton.testing import do_bench

    found = {}
    for name, call in calls.items():
        p50, p20, p80 = do_bench(call, warmup=50, rep=max(20, int(1000 * seconds)), quantiles=[0.5, 0.2, 0.8])
        found[name] = Timing(p50 / 1e3, p20 / 1e3, p80 / 1e3)
    return found


def in_turns(calls: Mapping[str, Call], seconds: float) -> dict[str, Timing]:
    """On a CPU: blocks of calls that follow each other, as in a loop, taking turns. The first of a block is not timed,
    unless it is long: the threads of the call before may still be awake, and the caches hold its data."""
    blocks = {}
    for name, call in calls.items():
        call()
        once = timed(call)
        blocks[name] = min(int(seconds / ROUNDS / max(once, 1e-9)), 300)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            if sum(found[name]) < 4 * seconds or len(found[name]) < 3:
                if blocks[name]:
                    call()
                found[name] += [timed(call) for _ in range(max(blocks[name], 1))]
    return {name: Timing(*np.quantile(v, [0.5, 0.2, 0.8]).tolist()) for name, v in found.items()}


def timed(call: Call) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e9


def wall(call: Call, device: str) -> Timing:
    """Seconds from call to result, with nothing else under way."""

    def whole() -> None:
        call()
        if device != "cpu":
            torch.cuda.synchronize()

    for _ in range(5):
        whole()
    found = [timed(whole) for _ in range(LATENCY_CALLS)]
    return Timing(*np.quantile(found, [0.5, 0.2, 0.8]).tolist())


def launch(call: Call, device: str) -> float:
    """Seconds that a call takes of the host, its work left running."""
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter_ns()
    for _ in range(LATENCY_CALLS):
        call()
    found = (time.perf_counter_ns() - start) / 1e9 / LATENCY_CALLS
    if device != "cpu":
        torch.cuda.synchronize()
    return found


def copier(x: Tensor) -> Call:
    """A device copy of `x`, which moves twice its bytes."""
    out = torch.empty_like(x)
    return lambda: out.copy_(x)
