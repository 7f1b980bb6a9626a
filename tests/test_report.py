"""Pages are one file each that needs nothing else, and hold every picture and number that they were given."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sciguide.cli import main
from sciguide.plots import (
    Frame,
    Scale,
    action_panel,
    amount_scale,
    colour_bar,
    decade_scale,
    interval_panel,
    map_panel,
    value_scale,
)
from sciguide.provenance import provenance
from sciguide.report import Cell, Group, Page, Section, Table, write_page

FRAME = Frame(np.linspace(-40, -30, 5), np.linspace(10, 20, 6), "latitude (degrees north)", "longitude", 1.2)


class Images(HTMLParser):
    """What an HTML file shows and what it would load: `images` (alt, PNG bytes), `outside` addresses."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[tuple[str, bytes]] = []
        self.outside: list[str] = re.findall(r"@import|url\(", html)
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "img":
            kind, _, data = given["src"].partition("base64,")
            assert kind == "data:image/png;" and given["width"] and given["height"]
            self.images.append((given["alt"], base64.b64decode(data, validate=True)))
        elif "src" in given or "href" in given:
            self.outside.append(str(given))


def shown(path: Path) -> Images:
    """The images of a page, after looking that it is self-contained and every picture has a text for it."""
    page = Images(path.read_text(encoding="utf-8"))
    assert not page.outside
    assert all(alt.strip() and png.startswith(b"\x89PNG") for alt, png in page.images)
    return page


def pixels(png: bytes) -> np.ndarray:
    import io

    from matplotlib.image import imread

    return imread(io.BytesIO(png))[..., :3]


def test_page_holds_what_it_was_given_and_escapes_it(tmp_path):
    picture = map_panel(np.eye(5, 6), FRAME, value_scale([np.eye(5)], "u (m s-1)"), "member <0>", 'a "quoted" map')
    table = Table("scores", "a note", ["method", "CRPS"], [[Cell("a & b"), Cell("0.5", "0.4 to 0.6")]])
    section = Section("First", ["x < y"], ["lap(phi) - f"], [table], [Group("maps", [picture], [picture])])
    path = write_page(tmp_path / "page.html", Page("A page", ["In short."], [section], provenance("sciguide report")))
    page, html = shown(path), path.read_text()
    assert page.images == [(picture.alt, picture.png)] * 2
    for text in ("x &lt; y", "a &amp; b", "0.4 to 0.6", "lap(phi) - f", "member &lt;0&gt;", "In short.", "a note"):
        assert text in html
    assert "sciguide report" in html and "Python 3." in html
    assert not list(tmp_path.glob("*.part"))


def test_scales_of_signs_amounts_and_decades():
    both = value_scale([np.array([-1.0, np.nan]), np.array([3.0])], "u")
    assert (both.low, both.high) == (-3, 3)
    assert (value_scale([np.array([1.0, 4.0])], "T").low, value_scale([np.full(3, 2.0)], "T").low) == (1, 2)
    assert amount_scale([np.array([0.5, 2.0])], "std")[1:3] == (0, 2)
    decades = decade_scale([np.array([0.0, 3e-5, -3e-5, 2e-5]), np.array([-0.2])], "|r|")
    assert decades.logarithmic and (decades.low, decades.high) == pytest.approx((1e-5, 1.0))
    assert decade_scale([np.zeros(3)], "|r|").low > 0
    assert value_scale([np.full(3, np.nan)], "u").high == 1  # nothing to draw is no error


def test_land_is_grey_and_the_same_value_has_the_same_colour_in_every_panel():
    field = np.full((5, 6), 0.5)
    field[:, :3] = np.nan
    scale = value_scale([np.array([-1.0, 1.0])], "u")
    colours = [
        {tuple(c) for c in np.round(pixels(map_panel(f, FRAME, scale, "", "map").png).reshape(-1, 3), 3)}
        for f in (field, np.full((5, 6), 0.5))
    ]
    grey = next(c for c in colours[0] if np.allclose(c, 0.72, atol=0.003))
    value = tuple(np.round(scale.colours(scale.norm(0.5))[:3], 3))
    near = [any(np.allclose(c, value, atol=0.003) for c in found) for found in colours]
    assert grey and near == [True, True]


def test_panels_of_all_kinds_say_in_words_what_they_show():
    scale = Scale(value_scale([np.ones(2)], "").colours, 1e-3, 1.0, "|r|", True)
    points = np.array([-35.0]), np.array([15.0]), np.array([0.5])
    assert map_panel(np.ones((5, 6)), FRAME, scale, "c", "text", points, bar=True).alt == "text"
    assert colour_bar(scale).alt == "Colour bar: |r|, from 0.001 to 1"
    actions = {"learned": np.array([[0.0, 2.0, -1.0]] * 4)}
    assert "learned from -1 to 2" in action_panel("log s2", np.array([3.0, 0.1, 0.0]), actions).alt
    assert "fixed 1.5 (1.2 to 2)" in interval_panel("error", {"fixed": (1.5, 1.2, 2.0)}, 1.0).alt


# sciguide report


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory) -> Path:
    """A run's folder with a tiny model of currents beside land, and an ensemble in it."""
    import torch

    from sciguide.generate import Options, write_ensemble

    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    small_model(folder).save(folder / "model.pt")
    list(write_ensemble(folder, folder / "ensemble", 5, 0, Options(steps=2, batch=5, policy="fixed")))
    return folder / "ensemble"


def small_model(folder: Path):
    """Non-divergent currents on 8 x 9 points, with land in a corner, from 30 random samples and no training."""
    import xarray as xr

    from sciguide.datasets.module import GridData
    from sciguide.training.diffusion import DiffusionModule

    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 30, 8, 9)).astype(np.float32)
    values[..., :3, :2] = np.nan
    coords = {
        "sample": np.arange(30),
        "lat": ("lat", np.linspace(-40, -33, 8), {"units": "degrees_north"}),
        "lon": ("lon", np.linspace(10, 18, 9), {"units": "degrees_east"}),
    }
    fields = {n: (("sample", "lat", "lon"), v, {"units": "m s-1"}) for n, v in zip("uv", values, strict=True)}
    xr.Dataset(fields, coords).to_netcdf(folder / "data.nc")
    data = GridData(str(folder / "data.nc"), train=[0, 24], validation=[24, 30], cache=str(folder / "cache"))
    module = DiffusionModule(width=8, multipliers=[1], equations={"nondivergence": {}})
    module.build(data)
    return module.export(data)


def test_report_of_an_ensemble(ensemble, capsys):
    record = {"variable": "u", "metric": "crps", "value": 0.123456, "low": 0.1, "high": 0.2, "n": 5}
    records = [{"method": "ensemble", **record}, {"method": "data", **record, "low": None, "high": None}]
    (ensemble / "evaluation.json").write_text(json.dumps({"records": records, "flags": ["u: too little variability"]}))
    assert main(["report", str(ensemble)]) == 0
    path = ensemble / "report.html"
    assert str(path) in capsys.readouterr().out
    alts = [alt for alt, _ in shown(path).images]
    for name in "uv":
        for what in ("member 0", "member 3", "mean"):
            assert f"Map of {name}, {what}" in alts
        assert f"Map of the spread of {name}" in alts
    assert "Map of the residual of member 0" in alts
    assert any(alt.startswith("Action log s2 nondivergence band 0 over the noise level: fixed") for alt in alts)
    html = path.read_text()
    assert all(text in html for text in ("0.123", "0.1 to 0.2", "too little variability", "5 members", "u (m s-1)"))


def test_report_says_what_is_missing(ensemble, tmp_path, capsys):
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "no members" in capsys.readouterr().err
    assert main(["report", str(ensemble), "--evaluation", str(tmp_path / "no.json")]) == 2
    assert "sciguide evaluate" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text("[]")
    assert main(["report", str(ensemble), "--evaluation", str(tmp_path / "bad.json")]) == 2
    assert "is no evaluation" in capsys.readouterr().err
    assert main(["report", str(ensemble), "--run", str(tmp_path)]) == 2
    assert "no such model" in capsys.readouterr().err
