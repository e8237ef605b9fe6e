"""Parts of a page: the cells of a notebook as HTML, values as a person reads them, and the templates around both."""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sundial.execution.parameters import INJECTED_TAG
from sundial.formats import write_bytes_atomically
from sundial.scraps import MIME_PREFIX

if TYPE_CHECKING:
    import nbformat

TEMPLATES = Path(__file__).with_name("templates")
# Left out of a body: they load or run something, and a page to be signed does neither.
UNWANTED_TAGS = ("script", "link", "iframe", "object", "embed", "base", "meta", "form")
OUTSIDE = re.compile(r"^\s*(?:[a-z][a-z0-9+.-]*:)?//|^\s*(?:javascript|vbscript|file):", re.IGNORECASE)
OUTSIDE_STYLE = re.compile(r"@import[^;]*;?|url\(\s*['\"]?\s*(?:[a-z]+:)?//[^)]*\)", re.IGNORECASE)
NUMBER = re.compile(r"^\s*[-+−]?[$€£]?[\d,. ]*\d\s*(?:%|pp|s|ms)?\s*$|^\s*(?:nan|NaN|None|–|)\s*$")
PEEK_WIDTH = 110
MINUS = "−"
REUSED, REUSED_PLACE = "reused", '<dl class="facts">'


def render_cells(notebook: nbformat.NotebookNode) -> tuple[str, str, list[dict[str, str]]]:
    """Render the cells of a notebook.

    Parameters
    ----------
    notebook : NotebookNode
        An executed notebook; it is not changed.

    Returns
    -------
    tuple of str, str and list of dict
        The HTML, which loads nothing from anywhere; the text of the first H1, which is left out of it; and the
        entries (``id``, ``text``) of a table of contents, from the H2.
    """
    import copy

    from bs4 import BeautifulSoup
    from nbconvert import HTMLExporter

    copied = copy.deepcopy(notebook)
    number = 0
    for cell in copied.cells:
        # counted as in the source notebook, which has no injected cell
        injected = INJECTED_TAG in cell.metadata.get("tags", [])
        number += not injected
        first = next((line.strip() for line in cell.source.splitlines() if line.strip()), "")
        if cell.cell_type == "code":  # scraps are data, and shown in a table of their own
            cell.outputs = [output for output in cell.outputs if not _is_scrap(output)]
        cell.metadata["sundial"] = {"number": "" if injected else number, "peek": first[:PEEK_WIDTH]}
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        extra_template_basedirs=[str(TEMPLATES)], template_name="sundial"
    )
    exporter.log = logging.getLogger("sundial.nbconvert")
    exporter.log.setLevel(logging.ERROR)  # it warns of each plot without a description
    html, _ = exporter.from_notebook_node(copied)
    soup = BeautifulSoup(html, "html.parser")
    _stay_inside(soup)
    _align_numbers(soup)
    title = ""
    heading = soup.find("h1")
    if heading is not None:
        title = _text_of(heading)
        heading.decompose()
    contents = []
    for index, heading in enumerate(soup.find_all("h2"), 1):
        heading["id"] = heading.get("id") or f"section-{index}"
        contents.append({"id": str(heading["id"]), "text": _text_of(heading)})
    return str(soup), title, contents


def _is_scrap(output: Mapping[str, Any]) -> bool:
    """Tell whether an output has nothing to show but a scrap's data."""
    data = output.get("data")
    return data is not None and len(data) > 0 and all(kind.startswith(MIME_PREFIX) for kind in data)


def _align_numbers(soup: Any) -> None:
    """Set columns of numbers flush right, so that their sizes can be compared; pandas does so with text too."""
    for table in soup.find_all("table"):
        # from the right: a cell of the index may span rows, and is missing from all of these but the first
        rows = [row.find_all(["th", "td"])[::-1] for row in table.find_all("tr")]
        width = max(map(len, rows), default=0)
        for index in range(width):
            body = [row[index] for row in rows if len(row) > index and row[index].name == "td"]
            if body and all(NUMBER.match(cell.get_text()) for cell in body):
                for cell in [*body, *(row[index] for row in rows if len(row) == width and row[index].name == "th")]:
                    cell["class"] = [*cell.get("class", []), "n"]


def _text_of(heading: Any) -> str:
    """Give the text of a heading, without the mark of its anchor."""
    return str(heading.get_text()).replace("¶", "").strip()


def _stay_inside(soup: Any) -> None:
    """Take out of a page what leads or loads from outside of it; addresses stay readable."""
    for tag in soup.find_all(UNWANTED_TAGS):
        tag.decompose()
    for tag in soup.find_all(True):
        for name in [name for name in tag.attrs if name.startswith("on")]:
            del tag[name]
        for name in ("href", "src", "srcset", "poster", "action", "background", "xlink:href"):
            if OUTSIDE.match(str(tag.get(name, ""))):
                address = tag[name]
                del tag[name]
                if tag.name == "a":
                    tag.name = "span"
                    tag["class"] = "outside"
                    tag["title"] = address
        if "style" in tag.attrs:
            tag["style"] = OUTSIDE_STYLE.sub("", tag["style"])
        if tag.name == "style" and tag.string:
            tag.string.replace_with(OUTSIDE_STYLE.sub("", tag.string))


def show_number(value: Any) -> str:
    """Show a number with thousands and the digits that matter; what is none becomes a dash.

    Examples
    --------
    >>> show_number(6402), show_number(0.731234), show_number(12.0), show_number(None)
    ('6,402', '0.7312', '12', '–')
    """
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    if isinstance(value, float):
        if not math.isfinite(value):
            return "undefined"
        text = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
        return text.replace("-", MINUS)
    return str(value)


def show_value(value: Any) -> str:
    """Show a parameter or a scrap on one line.

    Examples
    --------
    >>> show_value({"estimate": 0.731, "low": 0.7, "high": 0.76, "confidence": 0.95, "rows": 6402})
    '0.731 (95 % interval 0.7 to 0.76; 6,402 rows)'
    """
    if isinstance(value, Mapping):
        if value.get("undefined") is True:
            return "undefined"
        if {"estimate", "low", "high"} <= set(value):
            rows = f"; {show_number(value['rows'])} rows" if value.get("rows") is not None else ""
            low, high = show_value(value["low"]), show_value(value["high"])
            share = f"{100 * float(value.get('confidence', 0.95)):g}"
            return f"{show_value(value['estimate'])} ({share} % interval {low} to {high}{rows})"
        return ", ".join(f"{name}: {show_value(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(show_value(item) for item in value)
    return show_number(value)


def mark_reused(html: str, origin: str) -> str:
    """Say on the page of a stage that another run has taken it over as it is.

    Parameters
    ----------
    html : str
        The page in the run that made it, or in one that has reused it already.
    origin : str
        Name of the run that made it.

    Returns
    -------
    str
        The page; empty when there is no place for the line.
    """
    if f'id="{REUSED}"' in html:
        return html
    before, mark, after = html.partition(REUSED_PLACE)
    name = escape(origin)
    line = (
        f'<p class="lead" id="{REUSED}">Reused from <a href="../../{name}/index.html">{name}</a>: code, parameters, '
        f"inputs and environment are the same. What follows is the original.</p>"
    )
    return f"{before}{line}{mark}{after}" if mark else ""


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """List nested values as the dotted names that gates use, and what they show."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        leaf = not isinstance(value, Mapping) or "undefined" in value or "estimate" in value or not value
        rows += [(f"{prefix}{name}", show_value(value))] if leaf else flatten(value, f"{prefix}{name}.")
    return rows


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(TEMPLATES / "pages"), autoescape=True)
    environment.filters["number"] = show_number
    return environment


def write_page(template: str, path: Path, page: Mapping[str, Any]) -> Path:
    """Fill a template and write the page, atomically.

    Parameters
    ----------
    template : str
        ``stage``, ``run`` or ``index``.
    path : Path
        Where.
    page : mapping
        What the template shows; ``body`` is HTML, all else is text.

    Returns
    -------
    Path
        The same path.
    """
    from markupsafe import Markup

    folder = TEMPLATES / "pages"
    script = (folder / "page.js").read_text(encoding="utf-8")
    # no script but ours runs, and nothing is fetched: the page shows what was there when it was made
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shown = {"facts": {}, "trail": [], "contents": [], "gates": [], "footer": "", **page}
    html = (
        _environment()
        .get_template(f"{template}.html.j2")
        .render(
            page={**shown, "body": Markup(shown.get("body", ""))},  # noqa: S704  rendered by nbconvert, then cleaned
            style=Markup((folder / "style.css").read_text(encoding="utf-8")),  # noqa: S704  our own file
            script=Markup(script),  # noqa: S704  our own file
            script_hash=f"sha256-{digest}",
        )
    )
    return write_bytes_atomically(path, html.encode())
