"""`sciguide generate RUN`: draw an ensemble into a folder of CF NetCDF files, one member a file."""

import re
from pathlib import Path
from typing import Literal

from sciguide.cli.parser import call
from sciguide.errors import InputError


def run(argv: list[str]) -> int:
    return call(generate, argv, "sciguide generate")


def generate(
    run: str,
    members: int = 16,
    policy: Literal["none", "fixed", "scheduled", "linear", "learned"] = "none",
    obs: str | None = None,
    out: str | None = None,
    seed: int = 0,
    steps: int = 20,
    scales: Literal["ml", "told"] = "ml",
    no_equations: bool = False,
    direction: Literal["kriging", "gradient"] = "kriging",
    variance: Literal["learned", "prior"] = "learned",
    hard: bool = False,
    iterations: int = 200,
    preference: float = 0.5,
    batch: int = 8,
    shard: str = "0/1",
    device: str = "cpu",
    dry_run: bool = False,
) -> int:
    """Draw members from the model of a run. Running the same command again resumes.

    Args:
        run: a run's folder, or its model.pt
        members: how many members the ensemble has
        policy: none (unguided), fixed (the formula), or what `sciguide tune` made: scheduled, linear, learned
        obs: point observations, a CSV file with the columns variable,y,x,value,error
        out: folder of the ensemble; `ensemble` in the run's folder if left out
        seed: of the noise; member m with seed s is the same in every ensemble
        steps: evaluations of the network per member
        scales: of the prior's and the observations' errors: estimated by maximum likelihood, or as told
        no_equations: guide by the observations alone, also where the model has equations
        direction: in which equations correct: kriging, or gradient, cheap steps down the gradient of the residual
        variance: of the estimates' errors: learned, where the model has a network of it, or the prior's
        hard: project onto the equations, as far as their solver comes, instead of to what the training data have
        iterations: at most, of the equations' solver; 1 is the preconditioned gradient; down the gradient at most 20
        preference: of the learned policy, from 0, the distribution alone, to 1, physics alone
        batch: members computed together; part of what makes bytes repeat
        shard: i/n does only every n-th batch, beginning with the i-th, for n processes or array jobs
        device: that computes: cpu, cuda, or cuda:1 and so on; bytes repeat on a CPU, on a GPU numbers to rounding
        dry_run: say what would be done and do nothing
    """
    from sciguide.device import find_device
    from sciguide.generate import Options, find_model, write_ensemble
    from sciguide.receipts import read_receipts

    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    part = (int(found[1]), int(found[2])) if found else (1, 0)
    if part[0] >= part[1]:
        raise InputError(f"--shard {shard}: i/n with i from 0 to n - 1, such as 0/4")
    if members < 1:
        raise InputError(f"--members {members}: at least 1")
    if obs and policy == "none":
        raise InputError(f"--obs {obs}: the policy none does not look at it; add --policy fixed, or a tuned one")
    guides = {"observations": obs, "scales": scales, "equations": not no_equations, "direction": direction}
    guides |= {"variance": variance, "hard": hard, "iterations": iterations, "preference": preference}
    options = Options(steps=steps, policy=policy, batch=batch, **guides)
    find_device(device)
    model = find_model(run)
    folder = Path(out) if out else model.parent / "ensemble"
    there = len(read_receipts(folder))
    print(f"{model}: {members} members into {folder}, {there} there; seed {seed}, {steps} steps, policy {policy}")
    if dry_run:
        return 0
    from rich.progress import Progress

    from sciguide.kernels.backends import computed_by

    print(computed_by(device))
    with Progress(transient=True) as progress:
        task = progress.add_task("drawing", total=members, completed=there)
        made = 0
        for _ in write_ensemble(model, folder, members, seed, options, part, device):
            made += 1
            progress.advance(task)
    print(f"{made} members drawn, {len(read_receipts(folder))} of {members} finished in {folder}")
    return 0
