"""Reports: every executed notebook, every run and the list of all runs as pages that open offline.

A person signs on what they say. Failures come first, then verdicts, then the notebook as it ran.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sundial.execution.board import read_file
from sundial.execution.delivery import describe_weeks
from sundial.execution.pages import flatten, render_cells, show_number, write_page
from sundial.execution.parameters import read_notebook
from sundial.pipeline import list_pipelines, load_pipeline
from sundial.release.evidence import PAGE
from sundial.release.locks import hold_lock
from sundial.runs import Run, list_runs
from sundial.settings import Settings, load_settings

REPORT = "report.html"
STEPS = {"release": "Release gates", "comparison": "Comparison gates", "monitoring": "Monitoring gates"}
KINDS = {"release": "Releases", "experiment": "Experiments", "scratch": "Scratch runs"}


def render_notebook(notebook: Path, path: Path, header: Mapping[str, Any]) -> Path:
    """Render an executed notebook as a page.

    Parameters
    ----------
    notebook : Path
        The executed notebook.
    path : Path
        Where the page goes.
    header : mapping
        What stands above it, all optional: ``title`` (that of the notebook's H1 by default), ``kicker``, ``status``,
        ``facts`` (label to text), ``trail`` (``text``, ``href``), ``error`` (as in stage.json), ``gates`` (as in
        gates.json), ``parameters``, ``scraps`` (name to value) and ``files``.

    Returns
    -------
    Path
        The page.
    """
    body, title, contents = render_cells(read_notebook(notebook))
    error = _describe_error(header.get("error"), "")
    gates = describe_gates(header.get("gates") or {})
    scraps, files = flatten(header.get("scraps") or {}), list(header.get("files") or [])
    first = [{"id": "failure", "text": "What failed"}] if error else []
    first += [{"id": group["id"], "text": group["title"]} for group in gates]
    last = [{"id": "recorded", "text": "Recorded"}] if scraps else []
    last += [{"id": "outputs", "text": "Files"}] if files else []
    page = {
        **header,
        "title": title or header.get("title") or path.parent.name,
        "error": error,
        "gates": gates,
        "parameters": flatten(header.get("parameters") or {}),
        "scraps": scraps,
        "files": files,
        "contents": [*first, *contents, *last],
        "has_code": True,
        "body": body,
    }
    return write_page("stage", path, page)


def render_stage(run: Run, stage: str, settings: Settings | None = None) -> Path:
    """Render the page of one stage of a run, and the pages above it.

    Parameters
    ----------
    run : Run
        The run.
    stage : str
        Name of the stage.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    Path
        ``report.html`` in the folder of the stage.
    """
    settings = settings or load_settings()
    record, manifest, folder = run.stage_record(stage), run.manifest(), run.stage_folder(stage)
    facts = _facts_of(manifest)
    if record.get("as_of") != manifest["as_of"]:
        facts["Run at"] = _date(record.get("as_of"))
    if record.get("reused"):
        facts["Reused from"] = record["reused"]["run"]
    facts["Started"] = _moment(record.get("started"))
    if "seconds" in record:
        facts["Took"] = f"{record['seconds']:,.1f} s"
    if record.get("kernel"):
        facts["Kernel"] = f"{record['kernel']['kind']}, {record['kernel']['peak_mib']:,.0f} MiB"
    files = [
        {"name": name, "role": role, "rows": item.get("rows"), "sha256": item["sha256"]}
        for role, key in (("read", "inputs"), ("made", "outputs"))
        for name, item in record.get(key, {}).items()
    ]
    page = render_notebook(
        folder / "notebook.ipynb",
        folder / REPORT,
        {
            "kicker": f"{manifest['pipeline']} · {stage}",
            "title": stage,
            "status": record["status"],
            "facts": facts,
            "trail": [
                {"text": "Runs", "href": _index_from(settings, folder)},
                {"text": run.name, "href": "../index.html"},
                {"text": stage, "href": ""},
            ],
            "error": record.get("error"),
            "parameters": record.get("parameters"),
            "scraps": record.get("scraps"),
            "files": files,
            "footer": f"Executed from a notebook with SHA-256 {record.get('notebook_sha256', '')}. "
            f"The executed notebook beside this page has SHA-256 {record.get('executed_sha256', '')}.",
        },
    )
    render_run(run, settings)
    return page


def render_run(run: Run, settings: Settings | None = None) -> Path:
    """Render the page of a run: what failed, decisions, gates and stages.

    Parameters
    ----------
    run : Run
        The run.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    Path
        ``index.html`` in the folder of the run. The index of all runs is rendered too.
    """
    settings = settings or load_settings()
    # held from reading a run to writing its page: of two, also of two processes, the one that writes last has read last
    with hold_lock(settings.artifacts / ".pages.lock"):
        page = _render_run(run, settings)
        render_index(settings)
    return page


def _render_run(run: Run, settings: Settings) -> Path:
    """Render the page of a run alone."""
    manifest, records = run.manifest(), run.stages()
    gates, decisions = describe_gates(read_file(run, "gates.json", {})), read_file(run, "decisions.json", [])
    longest = max((record.get("seconds") or 0 for record in records.values()), default=0) or 1
    stages = [
        {
            "name": name,
            "status": record["status"],
            "seconds": record.get("seconds"),
            "share": round(100 * (record.get("seconds") or 0) / longest, 1),
            "peak": round(record["kernel"]["peak_mib"]) if record.get("kernel") else None,
            "outputs": ", ".join(record.get("outputs", {})),
            "reused": (record.get("reused") or {}).get("run", ""),
            "href": f"{name}/{REPORT}" if (run.stage_folder(name) / REPORT).exists() else "",
        }
        for name, record in records.items()
    ]
    failed = next((name for name, record in records.items() if record["status"] == "failed"), "")
    facts = _facts_of(manifest)
    facts["Created"] = _moment(manifest["created"])
    facts["Started by"] = manifest.get("started_by") or "unknown"
    if manifest.get("base"):
        facts["On top of"] = manifest["base"]
    if manifest.get("experiment"):
        facts["Ships"] = (
            f"{manifest['experiment']}, parity {read_file(run, 'parity.json', {}).get('verdict', 'not proven')}"
        )
    facts["Stages took"] = f"{sum(stage['seconds'] or 0 for stage in stages):,.1f} s"
    error = _describe_error(records[failed].get("error"), failed) if failed else _describe_failed_gate(gates)
    contents = [{"id": "failure", "text": "What failed"}] if error else []
    contents += [{"id": "decisions", "text": "Decisions"}] if decisions else []
    contents += [{"id": group["id"], "text": group["title"]} for group in gates]
    return write_page(
        "run",
        run.folder / "index.html",
        {
            "kicker": f"{manifest['pipeline']} · {manifest['kind']}",
            "title": f"{manifest['kind'].capitalize()} of {manifest['pipeline']}, as of {_date(manifest['as_of'])}",
            "status": _status_of(records, gates, decisions),
            "lead": _summarize(records, gates, decisions),
            "facts": facts,
            "trail": [{"text": "Runs", "href": _index_from(settings, run.folder)}, {"text": run.name, "href": ""}],
            "error": error,
            "gates": gates,
            "decisions": [{**item, "at": _moment(item.get("at"))} for item in decisions],
            "signed": PAGE if (run.folder / PAGE).is_file() else "",
            "stages": stages,
            "contents": [*contents, {"id": "stages", "text": "Stages"}],
            "footer": "The record behind this page: manifest.json, gates.json, decisions.json and <stage>/stage.json.",
        },
    )


def render_index(settings: Settings | None = None) -> Path:
    """Render the index of all runs, newest first.

    Parameters
    ----------
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    Path
        ``artifacts/reports/index.html``.
    """
    settings = settings or load_settings()
    path = settings.reports / "index.html"
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in reversed(list_runs(settings=settings)):
        manifest = run.manifest()
        groups.setdefault((manifest["kind"], manifest["pipeline"]), []).append(_describe_run(run, manifest))
    ordered = sorted(groups.items(), key=lambda item: (list(KINDS).index(item[0][0]), item[0][1]))
    described = [
        {"id": f"{kind}-{pipeline}", "title": f"{KINDS[kind]} of {pipeline}", "runs": runs}
        for (kind, pipeline), runs in ordered
    ]
    boards = [
        {"id": f"board-{name}", "title": f"Weeks of {name}", **describe_weeks(load_pipeline(name, settings), settings)}
        for (kind, name), _ in ordered
        if kind == "release" and name in list_pipelines(settings)
    ]
    count = sum(len(group["runs"]) for group in described)
    return write_page(
        "index",
        path,
        {
            "kicker": "Sundial",
            "title": "Runs",
            "lead": f"{count} run{'s' * (count != 1)}, newest first.",
            "boards": boards,
            "groups": described,
            "contents": [{"id": item["id"], "text": item["title"]} for item in (*boards, *described)],
            "footer": f"Made from {settings.runs}.",
        },
    )


def _describe_run(run: Run, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a run in one line of the index."""
    records = run.stages()
    gates, decisions = describe_gates(read_file(run, "gates.json", {})), read_file(run, "decisions.json", [])
    results = [result for group in gates for result in group["results"]]
    return {
        "name": run.name,
        "href": f"../runs/{run.name}/index.html",
        "as_of": _date(manifest["as_of"]),
        "status": _status_of(records, gates, decisions),
        "stages": f"{sum(item['status'] == 'succeeded' for item in records.values())} of {len(records)}",
        "gates": f"{sum(item['status'] == 'passed' for item in results)} of {len(results)}" if results else "–",
        "decision": "; ".join(f"{item.get('decision', '')} by {item.get('name', '')}" for item in decisions),
    }


def _describe_error(error: Mapping[str, Any] | None, stage: str) -> dict[str, str] | None:
    """Describe the failing cell: it comes first on every page."""
    if not error:
        return None
    cell = error.get("cell")
    where = f"{stage} failed" if stage else "This notebook failed"
    anchor = f"#cell-{cell}" if cell else ""
    return {
        "headline": f"{where} in cell {cell}" if cell else where,
        "cause": str(error.get("cause") or error.get("message") or ""),
        "source": str(error.get("source") or ""),
        "href": f"{stage}/{REPORT}{anchor}" if stage else anchor,
        "link": f"Go to cell {cell}" if cell else "Open the notebook",
    }


def _describe_failed_gate(gates: list[dict[str, Any]]) -> dict[str, str] | None:
    """Describe the first gate that failed, in the place of a failing cell."""
    for group in gates:
        if group["status"] == "failed":
            first = group["results"][0]
            href = f"#{group['id']}"
            return {
                "headline": first["gate"],
                "cause": first["sentence"],
                "href": href,
                "link": f"See the {group['title'].lower()}",
            }
    return None


def describe_gates(verdicts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Describe the verdicts of each step, as in gates.json, for a template; failed ones first."""
    groups = []
    for step, verdict in verdicts.items():
        results = [
            # the table names the gate already
            {**item, "sentence": item["sentence"].removeprefix(item["gate"]).lstrip(": ")}
            for item in sorted(verdict["results"], key=lambda item: item["status"] != "failed")
        ]
        failed = sum(item["status"] == "failed" for item in results)
        skipped = sum(item["status"] == "skipped" for item in results)
        passed = len(results) - failed - skipped
        groups.append(
            {
                "id": f"gates-{step}",
                "step": step,
                "title": STEPS.get(step, step),
                "status": "failed" if failed else "passed",
                "at": _moment(verdict.get("at")),
                "summary": f"{passed} passed, {failed} failed, {skipped} skipped.",
                "results": results,
            }
        )
    return groups


def _status_of(records: Mapping[str, Any], gates: list[dict[str, Any]], decisions: list[dict[str, Any]]) -> str:
    """Give the status of a run: the worst that is known, else the last word of a person.

    A failed gate of the monitoring is an alarm: the release is in production and did not fail.
    """
    statuses = {record["status"] for record in records.values()}
    failed = {group["step"] for group in gates if group["status"] == "failed"}
    if "failed" in statuses or failed - {"monitoring"}:
        return "failed"
    if failed:
        return "alarm"
    if "running" in statuses:
        return "running"
    approvals = [item["decision"] for item in decisions if item.get("kind", "approval") == "approval"]
    if approvals:
        return {"approve": "approved", "reject": "rejected"}.get(approvals[-1], str(approvals[-1]))
    return "succeeded" if statuses else "waiting"


def _summarize(records: Mapping[str, Any], gates: list[dict[str, Any]], decisions: list[dict[str, Any]]) -> str:
    """Say in a sentence how a run stands."""
    succeeded = sum(record["status"] == "succeeded" for record in records.values())
    reused = sum(bool(record.get("reused")) for record in records.values())
    parts = [f"{succeeded} of {len(records)} stages succeeded" + (f", {reused} of them reused" if reused else "")]
    results = [result for group in gates for result in group["results"]]
    if results:
        parts.append(f"{sum(item['status'] == 'passed' for item in results)} of {len(results)} gates passed")
    parts += [f"{item.get('name', 'somebody')} answered {item.get('decision', '')!r}" for item in decisions[-1:]]
    return "; ".join(parts) + "."


def _facts_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Give the facts that stand above every page of a run."""
    commit = str(manifest.get("commit") or "")[:10] or "outside of git"
    return {
        "As of": _date(manifest["as_of"]),
        "Run": str(manifest["run"]),
        "Commit": commit + (", with changes" if manifest.get("dirty") else ""),
    }


def _index_from(settings: Settings, folder: Path) -> str:
    """Give the link from a folder to the index; pages link to each other alike over HTTP and from disk."""
    depth = len(folder.relative_to(settings.artifacts).parts) if folder.is_relative_to(settings.artifacts) else 2
    return f"{'../' * depth}reports/index.html"


def _date(text: Any) -> str:
    """Show a date, without the midnight that most have."""
    return re.sub(r"[T ]00:00(:00)?$", "", str(text or "–"))


def _moment(text: Any) -> str:
    """Show a time to the minute; all that Sundial writes down is UTC."""
    match = re.match(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)", str(text or ""))
    return f"{match[1]} {match[2]} UTC" if match else show_number(text)
