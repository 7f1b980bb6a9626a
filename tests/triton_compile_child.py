"""Run by test_triton_compile.py in children without TRITON_INTERPRET: one JSON line for every kernel and target."""

import json
import sys

from sciguide.equations import get
from sciguide.grid import Grid
from sciguide.kernels.site import Site
from sciguide.kernels.triton_ahead import compile_ahead
from sciguide.kernels.triton_numbers import settings


def site_of(name: str, rules: list[str], masked: bool = False) -> Site:
    """Equation `name` on a small grid; `rules`: of y and x."""
    import numpy as np

    equation, (near, mask) = get(name)(), (np.arange(12.0), None)
    if len(equation.axes) == 3:
        return equation.on(Grid(near, near, ("open", *rules), z=near)).kernels.site
    if masked:
        mask = np.ones((12, 12), bool)
        mask[5, 5] = False
    return equation.on(Grid(near, near, tuple(rules), mask=mask)).kernels.site


if __name__ == "__main__":
    for name, rules, masked, kind, targets, options in json.loads(sys.stdin.read()):
        site = site_of(name, rules, masked)
        for target in targets:
            found = compile_ahead(site.program, kind, target, settings(site), **options)
            print(
                json.dumps({"equation": name, "kind": kind, "rules": rules, **options, **found._asdict()}), flush=True
            )
