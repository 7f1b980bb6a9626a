"""Benchmarks: the answer is asserted first, then timed beside what a user would write without this package.

`cases`, `rivals`, `truth`, `timing`, `kernels`, `results`, `runner` and `exported` import torch, Triton and NumPy only,
so that they run on a GPU machine that has nothing else.
"""
