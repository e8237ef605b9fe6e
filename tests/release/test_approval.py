"""A signature holds for what was seen, by who may sign, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sundial.errors import ApprovalError, ApprovalRefusedError, EvidenceChangedError
from sundial.formats import read_json, write_json_atomically
from sundial.pipeline import Pipeline
from sundial.release.approval import (
    Decision,
    check_approval,
    decisions,
    evidence_hash,
    evidence_parts,
    evidence_summary,
    record_decision,
    superseding,
)
from sundial.release.registry import Registry
from sundial.runs import Run
from sundial.settings import Settings


def decision(**changes: Any) -> Decision:
    """Make an approval, with changes."""
    values = {
        "kind": "approval",
        "decision": "approve",
        "name": "ada",
        "reason": "better on all sets",
        "evidence": "e" * 64,
        "at": "2013-10-14T09:00:00+00:00",
    }
    return Decision(**{**values, **changes})


def rewrite(path: Path, old: str, new: str) -> None:
    """Change a file by hand."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def finish(run: Run, stage: str, **outputs: Any) -> None:
    """Add a stage that was run."""
    folder = run.stage_folder(stage)
    folder.mkdir(exist_ok=True)
    (folder / "notebook.ipynb").write_text("{}")
    run.update_stage(stage, status="succeeded", as_of=run.as_of.isoformat(), outputs=outputs)


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("06_train_model/notebook.ipynb", "06_train", "06_brain"),
        ("10_compare_shadow/notebook.ipynb", "10_", "01_"),
        ("10_compare_shadow/outputs/comparison.json", "6402", "6403"),
        ("08_evaluate_business/outputs/policy.json", "0.4", "0.1"),
        ("09_deploy_shadow/outputs/deployment.json", '"version": 2', '"version": 3'),
        ("gates.json", "-0.004", "0.004"),
    ],
)
def test_any_change_is_another_hash(judged: Run, path: str, old: str, new: str) -> None:
    """Notebook, comparison, threshold, version and verdict: changed by hand, each makes another hash."""
    before = evidence_hash(judged)
    rewrite(judged.folder / path, old, new)
    assert before != evidence_hash(judged)


def test_model_is_hashed_from_its_file(judged: Run) -> None:
    """A model exchanged behind the manifest's back is noticed, since the manifest's hash is not believed."""
    before = evidence_hash(judged)
    model = judged.stage_folder("06_train_model") / "outputs" / "model.skops"
    model.write_bytes(model.read_bytes() + b"x")
    assert before != evidence_hash(judged)
    model.unlink()
    assert "missing" == evidence_parts(judged)["06_train_model/model"]


def test_hash_stays_when_nothing_changed(judged: Run) -> None:
    """Judging the same gates again later, rendering reports and later stages leave the hash as it was."""
    before = evidence_hash(judged)
    verdicts = read_json(judged.folder / "gates.json")
    verdicts["comparison"]["at"] = "2013-10-15T00:00:00"
    verdicts["monitoring"] = {"at": "2013-10-23T00:00:00", "results": []}
    write_json_atomically(judged.folder / "gates.json", verdicts)
    (judged.folder / "index.html").write_text("<p>")
    finish(judged, "11_promote_model")
    finish(judged, "12_monitor_production")
    assert before == evidence_hash(judged)


def test_review_has_evidence_of_its_own(judged: Run) -> None:
    """The second question's hash covers the monitoring, and not what the review itself makes."""
    finish(judged, "12_monitor_production")
    before = evidence_hash(judged, kind="review")
    assert before != evidence_hash(judged)
    rewrite(judged.stage_folder("12_monitor_production") / "notebook.ipynb", "{}", "{ }")
    after = evidence_hash(judged, kind="review")
    assert before != after
    finish(judged, "13_review_production")
    assert after == evidence_hash(judged, kind="review")


def test_unchanged_evidence_may_be_signed(judged: Run, pipeline: Pipeline, settings: Settings) -> None:
    """An approver, the evidence as shown, no newer candidate: nothing stands in the way."""
    open_to = pipeline.model_copy(update={"approvers": ("ada", "grace")})
    check_approval(judged, evidence_hash(judged), open_to, "grace", settings=settings)
    check_approval(judged, evidence_hash(judged), pipeline, "anybody", settings=settings)


def test_changed_evidence_is_refused(judged: Run, pipeline: Pipeline, settings: Settings) -> None:
    """What changed between question and answer was not approved, and both short hashes are named."""
    shown = evidence_hash(judged)
    rewrite(judged.folder / "gates.json", "passed", "failed")
    with pytest.raises(
        EvidenceChangedError, match=f"was {shown[:12]} when it was shown and is {evidence_hash(judged)[:12]}"
    ):
        check_approval(judged, shown, pipeline, "ada", settings=settings)


@pytest.mark.parametrize("name", ["mallory", "ADA", ""])
def test_only_approvers_decide(judged: Run, pipeline: Pipeline, settings: Settings, name: str) -> None:
    """Where pipeline.yaml names approvers nobody else decides, and nobody decides without a name."""
    closed = pipeline.model_copy(update={"approvers": ("ada",)})
    with pytest.raises(ApprovalRefusedError, match="ada may|needs a name"):
        check_approval(judged, evidence_hash(judged), closed, name, settings=settings)


def test_newer_candidate_supersedes(
    judged: Run, make_run: Callable[..., Run], pipeline: Pipeline, settings: Settings
) -> None:
    """An older candidate cannot be approved any more; a release without a candidate supersedes nothing."""
    without = make_run("2013-10-07")
    assert superseding(judged, settings) is None
    finish(without, "09_deploy_shadow")
    with pytest.raises(ApprovalRefusedError, match="candidate of 2013-09-30 is superseded by that of 2013-10-07"):
        check_approval(judged, evidence_hash(judged), pipeline, "ada", settings=settings)
    assert superseding(without, settings) is None


@pytest.mark.parametrize("as_of", ["2013-09-30", "2013-09-23"])
def test_the_candidate_made_last_supersedes(
    judged: Run, make_run: Callable[..., Run], settings: Settings, as_of: str
) -> None:
    """The one made last is in shadow, and counts: also of the same date, or of an older one."""
    judged.update(created="2000-01-01T00:00:00+00:00")
    again = make_run(as_of)
    finish(again, "09_deploy_shadow")
    assert again == superseding(judged, settings)
    assert superseding(again, settings) is None


def test_decided_once(judged: Run, pipeline: Pipeline, settings: Settings) -> None:
    """A decision stands: nobody else decides on the same evidence, whoever asks, and it says who did."""
    shown = evidence_hash(judged)
    record_decision(judged, decision(evidence=shown, decision="reject"))
    with pytest.raises(ApprovalRefusedError, match="decided already: 'reject' by ada at 2013-10-14"):
        check_approval(judged, shown, pipeline, "grace", settings=settings)
    with pytest.raises(ApprovalRefusedError, match="decided already"):
        record_decision(judged, decision(evidence=shown))


def test_promoted_already(judged: Run, pipeline: Pipeline, settings: Settings) -> None:
    """A run whose model was promoted cannot be approved again on whatever evidence."""
    finish(judged, "11_promote_model")
    with pytest.raises(ApprovalRefusedError, match="was promoted already"):
        check_approval(judged, evidence_hash(judged), pipeline, "ada", settings=settings)


def test_decisions_are_appended(judged: Run) -> None:
    """Each decision is added to the run's file, the same answer twice only once, and nothing is ever removed."""
    first = record_decision(judged, decision())
    assert first == record_decision(judged, decision(at="2013-10-15T09:00:00+00:00"))
    record_decision(judged, decision(kind="review", decision="keep"))
    record_decision(judged, decision(evidence="f" * 64, decision="reject"))
    assert ["approve", "keep", "reject"] == [item.decision for item in decisions(judged)]
    assert {"kind", "decision", "name", "reason", "evidence", "at", "run", "proof"} == json.loads(
        (judged.folder / "decisions.json").read_text()
    )[0].keys()


def test_decisions_at_once_are_all_kept(judged: Run) -> None:
    """Two people answering two questions at the same moment do not lose each other's answer."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: record_decision(judged, decision(evidence=f"{index:064}")), range(24)))
    assert {f"{index:064}" for index in range(24)} == {item.evidence for item in decisions(judged)}


def test_approval_has_two_answers() -> None:
    """An approval that is neither yes nor no is refused where it is written down."""
    with pytest.raises(ApprovalError, match="'maybe' is no answer"):
        decision(decision="maybe")


def test_summary_fits_the_form(judged: Run, pipeline: Pipeline, registry: Registry, settings: Settings) -> None:
    """Gates, differences with intervals, money, swaps, what approving does, short hash and link: in 6 KB."""
    text = evidence_summary(judged, pipeline, settings=settings)
    for part in (
        "Toys that break: candidate of 2013-09-30",
        r"| no worse than production \| this week | at most 0.02 worse than production | -0.004 | 6,402 | passed |",
        "|  | production | shadow | difference (positive: better) |",
        "| roc auc | 0.730 (0.700 to 0.760) | 0.730 (0.700 to 0.760) | 0.010 (-0.004 to 0.024) |",
        "| last week | 0.010 (-0.004 to 0.024) |",
        "… and 22 more lines.",
        "| value per 1000 | 2,310 (0.700 to 0.760) |",
        "| newly alerted | 120 | 88 | 0.310 (0.241 to 0.382) | 340 (-20 to 700) |",
        "version 2 becomes production, the first one",
        f"`{evidence_hash(judged)[:12]}`",
        f"(http://127.0.0.1:8010/reports/{judged.name}/index.html)",
    ):
        assert part in text
    assert len(text.encode()) <= 6 * 1024
    assert "<" not in text, "Prefect strips HTML"


def test_summary_keeps_its_end_when_evidence_is_large(
    judged: Run, pipeline: Pipeline, registry: Registry, settings: Settings
) -> None:
    """However much was recorded, what approving does, the hash and the link are there."""
    wide = {f"measure_{index}": {f"column_{inner}": inner / 7 for inner in range(30)} for index in range(30)}
    judged.update_stage("10_compare_shadow", scraps={f"table_{index}": wide for index in range(20)})
    text = evidence_summary(judged, pipeline, link="https://example.org/page", settings=settings)
    assert len(text.encode()) <= 6 * 1024
    assert "**approve**" in text
    assert text.endswith("[all of it as a page](https://example.org/page)")


def test_summary_of_a_review(judged: Run, pipeline: Pipeline, settings: Settings) -> None:
    """The second form shows production on mature labels, undefined numbers as such, and what each answer does."""
    finish(judged, "12_monitor_production")
    undefined = {"estimate": {"undefined": True}, "low": {"undefined": True}, "high": {"undefined": True}, "rows": 0}
    judged.update_stage("12_monitor_production", scraps={"value_per_1000": undefined, "alerts": 12})
    text = evidence_summary(judged, pipeline, kind="review", settings=settings)
    assert "| value per 1000 | undefined |" in text
    assert "**roll back**" in text
    assert evidence_hash(judged, kind="review")[:12] in text
