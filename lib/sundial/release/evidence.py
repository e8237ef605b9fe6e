"""The evidence that a person signs: what it is, its hash, and how it is shown to them.

The hash is computed from the files as they are now, never from the hashes in a manifest: whatever was changed between
the question and the answer, by whom and wherever, makes another hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from sundial.formats import hash_file, read_json
from sundial.pipeline import Pipeline
from sundial.release.tables import Table, lay_out, show
from sundial.runs import Run
from sundial.settings import Settings, load_settings

Kind = Literal["approval", "review"]

SHORT = 12
MOST_BYTES = 6 * 1024
# What was run after the question is not evidence for it.
LATER = {
    "approval": ("11_promote_model", "12_monitor_production", "13_review_production"),
    "review": ("13_review_production",),
}
STEPS = {"approval": ("release", "comparison"), "review": ("release", "comparison", "monitoring")}
# Stages whose outputs are read again when the answer is acted on, or are what the answer is about.
JUDGED = (
    "06_train_model",
    "07_evaluate_model",
    "08_evaluate_business",
    "09_deploy_shadow",
    "10_compare_shadow",
    "12_monitor_production",
)
# Of the run as a whole: the page that is signed, what was installed, and the proof that it is its experiment's.
PAGE = "approval.html"
PARITY = "parity.json"
FILES = (PAGE, "environment.json", PARITY)
# Of a stage's record and of the run's manifest: what is shown, but nothing that a later step writes there.
RECORDED = ("as_of", "status", "parameters", "notebook_sha256", "executed_sha256", "inputs", "outputs", "scraps")
WHO = ("pipeline", "as_of", "kind", "commit", "dirty", "started_by", "experiment", "name", "parameters", "notebooks")
SHOWN: dict[str, tuple[tuple[str, str, str], ...]] = {
    "approval": (
        ("Shadow and production on the same requests", "10_compare_shadow", ""),
        ("Money", "08_evaluate_business", ""),
        (
            "Candidate - production on evaluation sets, positive is better",
            "07_evaluate_model",
            "against_production",
        ),
        ("Candidate on its evaluation sets", "07_evaluate_model", "metrics"),
    ),
    "review": (("Production on mature labels", "12_monitor_production", ""),),
}
ANSWERS = {
    "approval": "**approve**: {candidate} becomes production{instead}; the model server answers with it within a "
    "second, without a restart; `sundial rollback` takes it back. **reject**: it leaves the shadow, and nothing else "
    "changes.",
    "review": "**keep**: nothing changes. **roll back**: the production version before this one comes back at once. "
    "**retrain now**: a release starts right away. In each case the hard examples are written for the next training.",
}


def evidence_parts(run: Run, *, kind: Kind = "approval") -> dict[str, str]:
    """Hash each thing that the evidence is made of.

    Parameters
    ----------
    run : Run
        After its comparison (or its monitoring).
    kind : {'approval', 'review'}
        Which question; what was run after it is left out.

    Returns
    -------
    dict of str to str
        Name to SHA-256, or ``missing``: the executed notebook and the record of each stage that was run (with its
        scraps and parameters), the outputs from the model on, the page that is signed, what was installed, the parity
        certificate, who made the run from what, and the verdicts of the gates.
    """
    parts: dict[str, str] = {}
    for stage, record in run.stages().items():
        if stage in LATER[kind]:
            continue
        files = {"notebook.ipynb": run.stage_folder(stage) / "notebook.ipynb"}
        if stage in JUDGED:
            files |= {name: run.folder / output["path"] for name, output in record.get("outputs", {}).items()}
        for name, path in files.items():
            parts[f"{stage}/{name}"] = hash_file(path) if path.is_file() else "missing"
        parts[f"{stage}/record"] = _hash({name: record.get(name) for name in RECORDED})
    manifest = run.manifest()
    parts["manifest"] = _hash({name: manifest.get(name) for name in WHO} | {"experimenter": experimenter(run)})
    for name in FILES:
        if (run.folder / name).is_file():
            parts[name] = hash_file(run.folder / name)
    for step, results in verdicts_of(run, kind).items():
        parts[f"gates/{step}"] = _hash(results)
    return parts


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def evidence_hash(run: Run, *, kind: Kind = "approval") -> str:
    """Compute the hash that binds a decision to what was shown.

    Parameters
    ----------
    run : Run
        Whose evidence.
    kind : {'approval', 'review'}
        Which question.

    Returns
    -------
    str
        64 hexadecimal digits; people see the first 12.
    """
    parts = {"run": run.name, "kind": kind, **evidence_parts(run, kind=kind)}
    return _hash(parts)


def experimenter(run: Run) -> str:
    """Name who started the experiment that a candidate was made from; empty for a scheduled one.

    Read from the run's manifest: ``experimenter``, or else who started the run that ``experiment`` names.
    """
    manifest = run.manifest()
    if manifest.get("experimenter") or not manifest.get("experiment"):
        return str(manifest.get("experimenter") or "").strip()
    source = Run(run.folder.parent / str(manifest["experiment"]))
    return str(source.manifest().get("started_by") or "").strip() if source.folder.is_dir() else ""


def evidence_summary(
    run: Run, pipeline: Pipeline, *, kind: Kind = "approval", link: str = "", settings: Settings | None = None
) -> str:
    """Write the evidence for the form that a person fills in.

    Parameters
    ----------
    run : Run
        Whose evidence.
    pipeline : Pipeline
        For its title.
    kind : {'approval', 'review'}
        Which question.
    link : str
        Address of the run's page; by default where the model server shows it.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    str
        Markdown of at most 6 KB: what does not fit is in the run's page.
    """
    settings = settings or load_settings()
    folder = f"{pipeline.serve_url(settings)}/reports/{run.name}"
    link = link or f"{folder}/index.html"
    page = [f"**[The page to sign]({folder}/{PAGE})**: two minutes, one page."]
    head = [f"## {pipeline.title}: {'candidate' if kind == 'approval' else 'production'} of {run.as_of:%Y-%m-%d}"]
    head += page if kind == "approval" and (run.folder / PAGE).is_file() else []
    foot = [
        _answers(run, pipeline, kind, settings),
        f"Evidence `{evidence_hash(run, kind=kind)[:SHORT]}`, run `{run.name}`: [all of it as a page]({link})",
    ]
    scraps = run.scraps()
    sections = [_gates_table(verdicts_of(run, kind))]
    for title, stage, name in SHOWN[kind]:
        recorded = scraps.get(stage, {})
        found = recorded.get(name) if name else recorded
        if found:
            blocks = [
                block
                for table in lay_out(found)
                for block in ([f"**{table.title}**"] * bool(table.title) + [table.to_markdown()])
            ]
            sections.append(f"### {title}\n\n" + "\n\n".join(blocks))
    room = MOST_BYTES - sum(len(part.encode()) + 2 for part in (*head, *foot))
    body: list[str] = []
    for section in sections:
        title, *blocks = section.split("\n\n")
        fitting = [title]
        for block in blocks:
            if len("\n\n".join([*fitting, block]).encode()) + 2 <= room:
                fitting.append(block)
        if len(fitting) > 1:
            body += fitting
            room -= len("\n\n".join(fitting).encode()) + 2
    return "\n\n".join([*head, *body, *foot])


def verdicts_of(run: Run, kind: Kind = "approval") -> dict[str, Any]:
    """Read the verdicts; without the time of judging, so that judging the same again changes nothing."""
    path = run.folder / "gates.json"
    verdicts = read_json(path) if path.exists() else {}
    return {step: verdicts[step]["results"] for step in STEPS[kind] if step in verdicts}


def _answers(run: Run, pipeline: Pipeline, kind: Kind, settings: Settings) -> str:
    """Say what each answer does, before it is given."""
    if kind == "review":
        return ANSWERS[kind]
    candidate = f"the candidate of {run.as_of:%Y-%m-%d}"
    instead = ""
    if run.stage_record("09_deploy_shadow").get("outputs", {}).get("deployment"):
        from sundial.release.registry import Registry

        deployment = read_json(run.verify_output("09_deploy_shadow", "deployment"))
        candidate = f"version {deployment['version']}"
        present = Registry(settings).alias(pipeline.name, "production")
        if present is None:
            instead = ", the first one"
        elif present.version != deployment["version"]:
            instead = f" instead of version {present.version}"
    return ANSWERS[kind].format(candidate=candidate, instead=instead)


def _gates_table(verdicts: Mapping[str, Any]) -> str:
    rows = tuple(
        (item["gate"], item["bound"], show(item["observed"]), show(item["rows"]), item["status"])
        for results in verdicts.values()
        for item in results
    )
    header = ("gate", "asked", "observed", "rows", "verdict")
    return "### Gates\n\n" + (Table(header, rows).to_markdown() if rows else "No gates.")
