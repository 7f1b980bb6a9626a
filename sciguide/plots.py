"""Pictures of fields and of a policy's decisions, as PNG bytes with the words that go with them.

Every picture is one small panel, so that a page can flow them on a wide screen, a phone and paper alike. Fields that
are compared share a `Scale`, and one colour bar stands for all of them. Land and missing points are grey.
"""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cmocean
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

LAND = "0.72"
DPI = 144
WIDTH, KEY = 2.5, 0.85  # inches of a panel, and of a colour bar beside it
COLOURS = ("#1b6ca8", "#c8553d", "#3f8f4f", "#7b5ea7", "#a07d1c")


class Picture(NamedTuple):
    """A panel: `png` bytes, the text that stands for it, and the line under it."""

    png: bytes
    alt: str
    caption: str


class Scale(NamedTuple):
    """Colours of fields that are compared: `label` says what and in which unit."""

    colours: Colormap
    low: float
    high: float
    label: str
    logarithmic: bool = False

    @property
    def norm(self) -> Normalize:
        return (LogNorm if self.logarithmic else Normalize)(self.low, self.high)


class Frame(NamedTuple):
    """Where a field lies: coordinates (Y,) and (X,), their names with units, and the height of a unit of y over the
    width of one of x."""

    y: NDArray
    x: NDArray
    y_label: str
    x_label: str
    aspect: float = 1.0


def value_scale(fields: Sequence[NDArray], label: str) -> Scale:
    """The range of all finite values in `fields`; symmetric about 0, in two colours, where they have either sign."""
    low, high = _range(fields)
    if low < 0 < high and min(-low, high) > 0.25 * max(-low, high):
        top = max(-low, high)
        return Scale(cmocean.cm.balance, -top, top, label)
    return Scale(cmocean.cm.haline, low, high, label)


def amount_scale(fields: Sequence[NDArray], label: str) -> Scale:
    """From 0 to the largest of `fields`, which are not negative."""
    return Scale(cmocean.cm.amp, 0.0, _range(fields)[1], label)


def decade_scale(fields: Sequence[NDArray], label: str, decades: int = 8) -> Scale:
    """Logarithmic, from the largest absolute value in `fields` down to the smallest, at most `decades` below."""
    high = 10.0 ** np.ceil(np.log10(max(max(abs(v) for v in _range(fields)), 1e-30)))
    values = [np.abs(f[np.isfinite(f) & (f != 0)]) for f in fields]
    least = min((np.quantile(v, 0.01) for v in values if v.size), default=high / 10)
    low = 10.0 ** np.floor(np.log10(max(least, high / 10.0**decades)))
    return Scale(cmocean.cm.matter, min(low, high / 10), high, label, True)


def _range(fields: Sequence[NDArray]) -> tuple[float, float]:
    finite = [f[np.isfinite(f)] for f in map(np.asarray, fields)]
    finite = [f for f in finite if f.size]
    if not finite:
        return 0.0, 1.0
    low, high = float(min(f.min() for f in finite)), float(max(f.max() for f in finite))
    return (low, high) if high > low else (low, low + max(abs(low), 1.0))


def map_panel(
    field: NDArray,
    frame: Frame,
    scale: Scale,
    caption: str,
    alt: str,
    points: tuple[NDArray, NDArray, NDArray] | None = None,
    bar: bool = False,
) -> Picture:
    """A field (Y, X) on its `frame`; `points`: y, x and values of observations, drawn as filled circles on top; `bar`:
    a picture that stands alone has its own colour bar."""
    # margins in inches rather than a layout engine: a tenth of the time, and axes of panels side by side are level
    left, bottom, rest = 0.56, 0.42, 0.07
    width = WIDTH - left - rest
    height = min(max(width * float(np.ptp(frame.y) * frame.aspect / max(np.ptp(frame.x), 1e-300)), 0.6), 3.6)
    size = WIDTH + KEY * bar, bottom + height + rest
    figure = Figure(figsize=size)
    axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    axes.set_facecolor(LAND)
    values = np.maximum(np.abs(field), scale.low) if scale.logarithmic else field
    drawn = axes.pcolormesh(
        frame.x, frame.y, np.ma.masked_invalid(values), cmap=scale.colours, norm=scale.norm, shading="nearest"
    )
    if points is not None:
        y, x, colour = points
        axes.scatter(x, y, 14, colour, cmap=scale.colours, norm=scale.norm, edgecolors="black", linewidths=0.6)
    if bar:
        beside = (WIDTH + 0.05) / size[0], bottom / size[1], 0.12 / size[0], height / size[1]
        key = figure.colorbar(drawn, cax=figure.add_axes(beside))
        key.set_label(scale.label, fontsize=8)
        key.ax.tick_params(labelsize=7, length=2)
    axes.set_aspect(frame.aspect)
    axes.set_xlabel(frame.x_label, fontsize=8)
    axes.set_ylabel(frame.y_label, fontsize=8)
    axes.tick_params(labelsize=7, length=2, pad=2)
    axes.locator_params(nbins=4)
    return Picture(_png(figure), alt, caption)


def colour_bar(scale: Scale) -> Picture:
    """The key to all panels of one `scale`, lying."""
    figure = Figure(figsize=(4.2, 0.62))
    axes = figure.add_axes((0.06, 0.36, 0.88, 0.3))
    figure.colorbar(ScalarMappable(scale.norm, scale.colours), cax=axes, orientation="horizontal")
    if not scale.logarithmic:
        axes.locator_params(axis="x", nbins=6)
    axes.set_title(scale.label, fontsize=8, pad=3)
    axes.tick_params(labelsize=7, length=2)
    return Picture(_png(figure), f"Colour bar: {scale.label}, from {scale.low:.3g} to {scale.high:.3g}", "")


def action_panel(name: str, sigma: NDArray, actions: Mapping[str, NDArray]) -> Picture:
    """One number of the action over the chain for each policy of `actions`, (members, steps): median over the members,
    the band holding 80 % of them. `sigma` (steps,): 0 is the finished field."""
    figure = Figure(figsize=(3.1, 2.2))
    axes = figure.add_axes((0.17, 0.2, 0.8, 0.76))
    steps = np.arange(len(sigma))
    axes.axhline(0, color="0.45", linewidth=0.8, linestyle="--")
    said = []
    for colour, (policy, action) in zip(COLOURS, actions.items(), strict=False):
        low, middle, high = np.quantile(action, (0.1, 0.5, 0.9), axis=0)
        axes.fill_between(steps, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(steps, middle, color=colour, linewidth=1.4, marker=".", markersize=4, label=policy)
        said.append(f"{policy} from {middle.min():.2g} to {middle.max():.2g}")
    top = max(1.0, 1.1 * max((float(np.abs(a).max()) for a in actions.values()), default=1.0))
    axes.set_ylim(-top, top)
    shown = np.unique(np.linspace(0, len(sigma) - 1, 5).round().astype(int))
    axes.set_xticks(shown, [f"{sigma[i]:.2g}" if sigma[i] else "0" for i in shown])
    axes.set_xlabel("noise level sigma (0: finished field)", fontsize=8)
    axes.set_ylabel("action (0: the formula)", fontsize=8)
    axes.tick_params(labelsize=7, length=2)
    axes.legend(fontsize=7, frameon=False, loc="best")
    return Picture(_png(figure), f"Action {name} over the noise level: {'; '.join(said)}", name)


def interval_panel(label: str, rows: Mapping[str, Sequence[float]], mark: float | None = None) -> Picture:
    """Values with their intervals (value, low, high), a line each; `mark`: where a line stands for what is best."""
    figure = Figure(figsize=(4.4, 0.75 + 0.27 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for i, (value, low, high) in enumerate(rows.values()):
        axes.plot([low, high], [i, i], color=COLOURS[0], linewidth=2.2, alpha=0.55, solid_capstyle="butt")
        axes.plot([value], [i], "o", color=COLOURS[0], markersize=4.5)
    if mark is not None:
        axes.axvline(mark, color="0.45", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    if min(low for _, low, _ in rows.values()) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(axis="x", which="both", labelsize=7)
    axes.grid(axis="x", which="both", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    said = "; ".join(f"{name} {value:.3g} ({low:.3g} to {high:.3g})" for name, (value, low, high) in rows.items())
    return Picture(_png(figure), f"{label}: {said}", "")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
