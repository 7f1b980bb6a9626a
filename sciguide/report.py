"""One self-contained HTML page: text, tables and pictures in one file that needs no network.

A `Page` is made of sections, these of paragraphs, formulas, tables and groups of pictures; `write_page` fills the
template `templates/report.html.j2`. `sciguide demo` and `sciguide report` both write their pages with it.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from sciguide.atomic import write_atomically
from sciguide.plots import DPI, Picture

TEMPLATE = Path(__file__).with_name("templates") / "report.html.j2"


class Cell(NamedTuple):
    """A number as `text`, and its interval or a remark below it in `small` print."""

    text: str
    small: str = ""


class Table(NamedTuple):
    """`rows` as long as the `head`; `note` stands above, as long as it likes."""

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Group(NamedTuple):
    """Pictures side by side, and the colour `bars` under them; `maps` are halved on a phone."""

    title: str
    pictures: Sequence[Picture]
    bars: Sequence[Picture] = ()
    maps: bool = True


class Section(NamedTuple):
    """A heading and what stands under it, in this order."""

    title: str
    text: Sequence[str] = ()
    formulas: Sequence[str] = ()
    tables: Sequence[Table] = ()
    groups: Sequence[Group] = ()


class Page(NamedTuple):
    """`lead`: what the reader should know first; `about`: how it was made, see `provenance`."""

    title: str
    lead: Sequence[str]
    sections: Sequence[Section]
    about: Mapping[str, str]


def write_page(path: str | os.PathLike, page: Page) -> Path:
    """The page as one HTML file, written atomically."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(page=page, image=_image)
    path = Path(path)
    write_atomically(path, lambda part: part.write_text(html, encoding="utf-8"))
    return path


def _image(picture: Picture) -> Markup:
    """An <img> with the picture in it, at the size it was drawn for."""
    width, height = (int.from_bytes(picture.png[i : i + 4]) for i in (16, 20))  # of the PNG's header
    source = base64.b64encode(picture.png).decode()
    size = Markup('width="{}" height="{}"').format(width * 96 // DPI, height * 96 // DPI)
    return Markup('<img src="data:image/png;base64,{}" alt="{}" {}>').format(source, picture.alt, size)
