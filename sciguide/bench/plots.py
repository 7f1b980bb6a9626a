"""The kernel benchmark as a picture: effective bandwidth and time against size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SERIES = (("seconds", "fused", "o", "-"), ("eager_seconds", "eager autograd", "s", "--"))
SERIES += (("compile_seconds", "torch.compile", "^", ":"),)


def plot_kernels(records: Sequence[dict[str, Any]], about: dict[str, Any], path: Path) -> None:
    """Energy and gradient of every case, an equation a colour, into `path` (.png, .svg)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [r for r in records if r["operation"] == "energy_and_gradient"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    equations = list(dict.fromkeys(r["operator"] for r in rows))
    for color, name in enumerate(equations):
        found = sorted((r for r in rows if r["operator"] == name), key=lambda r: r["megabytes"])
        sizes = [r["megabytes"] for r in found]
        for key, _, marker, line in SERIES:
            style = {"marker": marker, "linestyle": line, "color": f"C{color}", "markersize": 4}
            seconds = [float("nan") if r[key] is None else r[key] for r in found]
            moved = [r["gbps"] * r["seconds"] for r in found]
            left.plot(sizes, [m / s for m, s in zip(moved, seconds, strict=True)], **style)
            right.plot(sizes, [1e3 * s for s in seconds], **style)
    copies = sorted((r["megabytes"] * len(equations), r["copy_gbps"], r["megabytes"]) for r in rows)
    left.plot([c[2] for c in copies], [c[1] for c in copies], "k+", markersize=7)
    left.set(xscale="log", yscale="log", xlabel="one field, MB", ylabel="bytes that must move / time, GB/s")
    right.set(xscale="log", yscale="log", xlabel="one field, MB", ylabel="energy and gradient, ms")
    handles = [plt.Line2D([], [], color=f"C{i}", label=name) for i, name in enumerate(equations)]
    handles += [plt.Line2D([], [], color="k", marker=m, linestyle=s, label=label) for _, label, m, s in SERIES]
    handles.append(plt.Line2D([], [], color="k", marker="+", linestyle="", label="copy of the inputs"))
    right.legend(handles=handles, fontsize=7, frameon=False)
    figure.suptitle(f"{about['machine']}; {about['threads']} threads; {about['date'][:10]}", fontsize=9)
    figure.savefig(path, dpi=140, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
