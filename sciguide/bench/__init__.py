"""Benchmarks: the answer is asserted first, then timed beside what a user would write without this package.

`cases`, `rivals`, `timing`, `kernels` and `exported` import torch and NumPy only, so that they run on a GPU machine that
has nothing else.
"""
