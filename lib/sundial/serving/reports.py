"""Reports over HTTP: the pages of the runs and their index, and nothing else that lies under artifacts.

``/reports/runs/<run>/index.html`` is ``artifacts/runs/<run>/index.html``, so that links between pages work alike over
HTTP and from disk; ``/reports/<run>/`` leads there. Folders are never listed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response

from sundial.settings import Settings

SHOWN = {
    ".html": "text/html; charset=utf-8",
    ".ipynb": "application/x-ipynb+json",
    ".png": "image/png",
    ".json": "application/json",
}
FOLDERS = ("runs", "reports")
INDEXES = ("reports/index.html", "runs/index.html")
HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-cache"}


def find_report(artifacts: Path, path: str) -> Path | None:
    """Find the file that a path under ``/reports/`` names.

    Parameters
    ----------
    artifacts : Path
        The folder.
    path : str
        As decoded from the URL.

    Returns
    -------
    Path or None
        None when there is no such file, and when it may not be shown: outside of runs and reports (also by ``..`` or
        a link), hidden, or of a type that is no report.
    """
    parts = path.split("/")
    if parts[0] not in FOLDERS or any(part.startswith(".") or not part or "\0" in part for part in parts):
        return None
    found = artifacts.joinpath(*parts)
    try:
        if found.is_dir():
            found = found / "index.html"
        real = found.resolve(strict=True)
        allowed = [(artifacts / folder).resolve() for folder in FOLDERS]
    except (OSError, RuntimeError, ValueError):  # not there, a circle of links, a name that no file can have
        return None
    inside = any(real.is_relative_to(folder) for folder in allowed)
    return real if inside and real.is_file() and real.suffix in SHOWN else None


def make_route(settings: Settings) -> Callable[[Request], Awaitable[Response]]:
    """Make the endpoint for ``/reports/{path:path}``."""

    async def show_report(request: Request) -> Response:
        path = request.path_params.get("path", "").removesuffix("/")
        if path in ("", "index.html"):
            for index in INDEXES:
                if find_report(settings.artifacts, index):
                    return RedirectResponse(f"/reports/{index}")
            raise HTTPException(404, "there are no reports yet; make one with 'sundial release'")
        found = find_report(settings.artifacts, path)
        if found is None and find_report(settings.artifacts, f"runs/{path}"):
            return RedirectResponse(f"/reports/runs/{quote(path)}")
        if found is None:
            raise HTTPException(404, "no such report")
        if (settings.artifacts / path).is_dir():  # relative links need to know that it is one
            return RedirectResponse(f"/reports/{quote(path)}/index.html")
        return FileResponse(found, media_type=SHOWN[found.suffix], headers=HEADERS)

    return show_report
