"""`sciguide bench kernels|sampling`: the answers are asserted first, then timed beside what a user would write."""

from sciguide.cli import meant

ACTIONS = {
    "kernels": "energy, gradient, residual, J v, J^T w against eager autograd, torch.compile and a copy",
    "sampling": "a guided chain against an unguided one, and against guidance through the network",
}
MOST_BYTES = 64 * 2**20  # of a field on a CPU


def run(argv: list[str]) -> int:
    action, *rest = argv or ["--help"]
    if action in ("-h", "--help"):
        print("usage: sciguide bench kernels|sampling ...\n")
        print("\n".join(f"  {name:<10}{text}; see sciguide bench {name} --help" for name, text in ACTIONS.items()))
        return 0
    from sciguide.cli.parser import UsageError, call

    if action not in ACTIONS:
        raise UsageError(f"no such action: {action}{meant(action, ACTIONS)}", "see `sciguide bench --help`")
    command = " ".join(["sciguide bench", *argv])

    def kernels(
        cases: str | None = None,
        json: str | None = None,
        csv: str | None = None,
        plot: str | None = None,
        device: str = "cpu",
        backend: str = "auto",
        small: bool = False,
        seconds: float = 1.0,
        no_compile: bool = False,
        operations: str = "energy_and_gradient,residual,jvp,vjp",
    ) -> int:
        """Check and time the kernels of equations; the exit code is 1 if an answer is wrong.

        Args:
            cases: names of equations, comma-separated; all that have cases if left out
            json: file for the records
            csv: the same as a table
            plot: file for a picture of bandwidth and time against size, .png or .svg
            device: cpu, where fields are at most 64 MiB, or cuda
            backend: auto, triton, numba or reference
            small: tiny cases, a look at the machinery
            seconds: of each timing
            no_compile: leave torch.compile out, whose compiling takes most of the time
            operations: what is timed, comma-separated
        """
        return bench_kernels(
            cases, json, csv, plot, device, backend, small, seconds, not no_compile, operations, command
        )

    def sampling(full: bool = False, small: bool = False, csv: str | None = None, json: str | None = None) -> int:
        """Time chains of 20 steps by each direction of guidance, on the CPU.

        Args:
            full: all sizes, 64 to 256 points and batches of 1 to 64; hours on a CPU
            small: a tiny network and few steps, a look at the machinery
            csv: file for the table
            json: file for the records
        """
        from sciguide.bench.sampling import bench_sampling

        return bench_sampling(full, small, csv, json, command)

    return call({"kernels": kernels, "sampling": sampling}[action], rest, f"sciguide bench {action}")


def bench_kernels(
    names: str | None,
    json: str | None,
    csv: str | None,
    plot: str | None,
    device: str,
    backend: str,
    small: bool,
    seconds: float,
    compiled: bool,
    operations: str,
    command: str,
) -> int:
    """Run, print the summary, write what is asked for. Raises InputError."""
    from pathlib import Path

    from sciguide.bench.cases import choose, make_site
    from sciguide.bench.kernels import OPERATIONS, Settings
    from sciguide.bench.results import header, summary, write_csv, write_json
    from sciguide.bench.runner import run_cases
    from sciguide.errors import InputError
    from sciguide.kernels.backends import NAMES

    if backend not in ("auto", *NAMES):
        raise InputError(f"--backend {backend}: auto, {', '.join(NAMES)}{meant(backend, NAMES)}")
    told = tuple(word.strip() for word in operations.split(","))
    if unknown := [word for word in told if word not in OPERATIONS]:
        raise InputError(f"--operations {unknown[0]}: {', '.join(OPERATIONS)}{meant(unknown[0], OPERATIONS)}")
    if not seconds > 0:
        raise InputError(f"--seconds {seconds}: more than 0")
    require_device(device, backend)
    chosen = choose(names, small, MOST_BYTES if device == "cpu" else float("inf"))
    rivals = told if compiled and not small else ()
    settings = Settings(device, backend, 0.01 if small else seconds, rivals, told)
    about = header(command, device)
    records, failed = run_cases(chosen, make_site, settings)
    lines = [*summary(records), *(f"FAILED {line}" for line in failed)]
    print("\n".join(["", *lines]))
    about = {**about, "load at the end": header(command, device)["load"], "summary": lines}
    rows = [r.to_dict() for r in records]
    if json:
        write_json(Path(json), about, rows)
    if csv and rows:
        write_csv(Path(csv), about, rows)
    if plot and rows:
        from sciguide.bench.plots import plot_kernels

        plot_kernels(rows, about, Path(plot))
    return int(bool(failed))


def require_device(device: str, backend: str) -> None:
    """Raises InputError where torch has no such device, or the backend does not compute there."""
    import torch

    from sciguide.device import find_device
    from sciguide.errors import InputError
    from sciguide.kernels.backends import BackendError, backend_for, using

    found = find_device(device)
    try:
        with using(backend):
            backend_for(found, torch.float32)
    except BackendError as error:
        raise InputError(f"--backend {backend}: {error}") from error
