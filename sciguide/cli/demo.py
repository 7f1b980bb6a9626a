"""`sciguide demo`: from data to report on a problem whose best possible answer is known, offline, in minutes."""

from sciguide.cli.parser import call


def run(argv: list[str]) -> int:
    return call(demo, argv, "sciguide demo")


def demo(out: str = "demo", small: bool = False) -> int:
    """Make data, fit, tune, generate by each policy, evaluate, and write OUT/report.html; under four minutes.

    Args:
        out: the folder; an earlier demo in it is removed, anything else is left alone and refused
        small: a look at the machinery in seconds: a coarse grid, a model that has hardly learned
    """
    from sciguide.demo import run_demo
    from sciguide.demo_problems import SMALL, Plan

    run_demo(out, SMALL if small else Plan(), ["sciguide", "demo", "--out", out, *["--small"] * small])
    return 0
