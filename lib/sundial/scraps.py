"""Scraps: the numbers and small tables that a notebook records, the only thing gates read.

The format is scrapbook's, so that any scrapbook reader reads our notebooks, and notebooks that call ``scrapbook.glue``
are read by us. In front of it: values are checked before they are written, a value that is not a number is recorded as
undefined instead of making all scraps of the notebook unreadable, and a bad scrap fails only itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sundial.errors import ScrapError

MIME_PREFIX = "application/scrapbook.scrap."
MIME_JSON = MIME_PREFIX + "json+json"
# JSON has no NaN, and one NaN makes scrapbook refuse a whole notebook
UNDEFINED = {"undefined": True}
LARGEST_BYTES = 64 * 1024


def to_plain(value: Any, *, name: str = "value") -> Any:
    """Turn a value into what JSON can hold.

    Parameters
    ----------
    value : any
        Number, text, bool, None, date, or nested lists and dicts of them; numpy scalars welcome.
    name : str
        Used in the error.

    Returns
    -------
    any
        The same with Python's own types; NaN and infinity become ``{"undefined": True}``.

    Raises
    ------
    ScrapError
        When something in it has no form in JSON.
    """
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else dict(UNDEFINED)
    if value is pd.NaT:
        return dict(UNDEFINED)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, name=f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item, name=f"{name}[{index}]") for index, item in enumerate(value)]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise ScrapError(
        f"scrap {name!r} is a {type(value).__name__}, which cannot be recorded",
        hint="record numbers, text, and lists or dicts of them; save tables with stage.save",
    )


def from_plain(value: Any) -> Any:
    """Undo :func:`to_plain` for undefined numbers, which come back as NaN."""
    if isinstance(value, dict):
        return math.nan if value == UNDEFINED else {key: from_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    return value


def glue(name: str, value: Any) -> dict[str, Any]:
    """Write one scrap into the notebook that runs, in scrapbook's format.

    Parameters
    ----------
    name : str
        Name of the scrap.
    value : any
        See :func:`to_plain`; None is recorded as undefined.

    Returns
    -------
    dict
        The payload; outside of a notebook it is displayed nowhere.

    Raises
    ------
    ScrapError
        When the value cannot be recorded, or is larger than 64 KiB.
    """
    from IPython.display import display

    plain = to_plain(value, name=name)
    if plain is None:
        plain = dict(UNDEFINED)  # scrapbook's schema has no null, and one would make it refuse the whole notebook
    size = len(json.dumps(plain))
    if size > LARGEST_BYTES:
        raise ScrapError(
            f"scrap {name!r} is {size:,} bytes, more than {LARGEST_BYTES:,}",
            hint="save a table with stage.save, and record its number of rows",
        )
    payload = {"name": name, "data": plain, "encoder": "json", "version": 1}
    display(  # type: ignore[no-untyped-call]
        {MIME_JSON: payload}, metadata={"scrapbook": {"name": name, "data": True, "display": False}}, raw=True
    )
    return payload


def read_scraps(notebook: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Read the scraps of an executed notebook.

    Parameters
    ----------
    notebook : path or mapping
        An executed notebook.

    Returns
    -------
    dict of str to any
        By name, in the order recorded; undefined numbers are NaN. A scrap whose payload is broken is NaN too, so that
        a gate on it fails, and the others are read.

    Raises
    ------
    ScrapError
        When two scraps share a name.
    """
    content = notebook if isinstance(notebook, Mapping) else json.loads(Path(notebook).read_bytes())
    scraps: dict[str, Any] = {}
    for cell in content.get("cells", []):
        for output in cell.get("outputs", []):
            for mime, payload in output.get("data", {}).items():
                if not mime.startswith(MIME_PREFIX):
                    continue
                meta = output.get("metadata", {}).get("scrapbook", {})
                name = payload.get("name") if isinstance(payload, Mapping) else meta.get("name")
                if name is None:
                    continue
                if name in scraps:
                    raise ScrapError(f"scrap {name!r} was recorded twice", hint="give each scrap one name")
                readable = isinstance(payload, Mapping) and payload.get("encoder") in ("json", "text")
                data = payload.get("data") if readable else None
                # Jupyter writes null for a NaN that scrapbook itself recorded
                scraps[name] = math.nan if data is None else from_plain(data)
    return scraps
