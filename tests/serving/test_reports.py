"""Reports over HTTP: pages of runs are shown, nothing else is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from sundial.serving.reports import find_report, make_route
from sundial.settings import Settings


@pytest.fixture
def artifacts(settings: Settings) -> Path:
    """Make a folder as a release leaves it, with things beside it that are nobody's business."""
    files = {
        "runs/r1/index.html": "run",
        "runs/r1/06_train_model/report.html": "stage",
        "runs/r1/06_train_model/notebook.ipynb": "{}",
        "runs/r1/06_train_model/outputs/model.skops": "secret",
        "runs/r1/06_train_model/outputs/model_card.json": "{}",
        "runs/r1/.lock": "",
        "runs/r1/.hidden.html": "secret",
        "reports/index.html": "index",
        "mlflow.db": "secret",
        "predictions/demo/page.html": "secret",
        "../outside.html": "secret",
    }
    for name, text in files.items():
        path = settings.artifacts / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (settings.artifacts / "runs/r1/link.html").symlink_to(settings.artifacts.parent / "outside.html")
    (settings.artifacts / "runs/r1/circle.html").symlink_to("circle.html")
    return settings.artifacts


@pytest.mark.parametrize(
    "path",
    [
        "runs/r1/index.html",
        "runs/r1",
        "runs/r1/06_train_model/report.html",
        "runs/r1/06_train_model/notebook.ipynb",
        "runs/r1/06_train_model/outputs/model_card.json",
        "reports/index.html",
        "reports",
    ],
)
def test_pages_of_runs_are_found(artifacts: Path, path: str) -> None:
    """Pages, notebooks and JSON of runs, and the index, are shown."""
    found = find_report(artifacts, path)

    assert found is not None
    assert found.is_file()


@pytest.mark.parametrize(
    "path",
    [
        "runs",
        "runs/r1/06_train_model",
        "runs/r1/06_train_model/outputs",
        "runs/r1/06_train_model/outputs/model.skops",
        "runs/r1/.lock",
        "runs/r1/.hidden.html",
        "runs/r1/link.html",
        "runs/r1/circle.html",
        "runs/../mlflow.db",
        "runs/../../outside.html",
        "runs/r1/../../../outside.html",
        "../outside.html",
        "/etc/passwd",
        "runs//etc/passwd",
        "runs/r1/\0.html",
        "runs/" + "x" * 5000 + ".html",
        "predictions/demo/page.html",
        "mlflow.db",
        "",
    ],
)
def test_nothing_else_is_found(artifacts: Path, path: str) -> None:
    """Models, databases, logs, hidden files, links out of the folder and paths out of it are not there."""
    assert find_report(artifacts, path) is None


def get(settings: Settings, *paths: str) -> list[httpx.Response]:
    """Ask an app that has only the reports for some pages, following where it sends us."""
    route = make_route(settings)
    app = Starlette(routes=[Route("/reports", route), Route("/reports/{path:path}", route)])

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", follow_redirects=True) as client:
            return [await client.get(path) for path in paths]

    return asyncio.run(ask())


def test_pages_over_http(artifacts: Path, settings: Settings) -> None:
    """The index is found from the root, and a run from its name alone."""
    pages = get(settings, "/reports/", "/reports", "/reports/index.html", "/reports/r1/index.html", "/reports/r1")

    assert ["index", "index", "index", "run", "run"] == [page.text for page in pages]
    assert "/reports/runs/r1/index.html" == pages[-1].url.path
    assert "text/html; charset=utf-8" == pages[-1].headers["content-type"]
    assert "nosniff" == pages[-1].headers["x-content-type-options"]


@pytest.mark.parametrize(
    "path", ["%2e%2e/mlflow.db", "runs/%2e%2e/mlflow.db", "runs/..%2f..%2foutside.html", "runs/r1/%00.html"]
)
def test_no_path_leads_out(artifacts: Path, settings: Settings, path: str) -> None:
    """A path that climbs out of the folder, however it is written, is not there."""
    assert [404] == [page.status_code for page in get(settings, f"/reports/{path}")]


def test_before_the_first_release(settings: Settings) -> None:
    """Without any report the page says how to make one."""
    (answer,) = get(settings, "/reports/")

    assert answer.status_code == 404
    assert "sundial release" in answer.text
