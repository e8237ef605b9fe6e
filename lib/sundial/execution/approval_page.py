"""The page that a person signs: made for one decision, read in two minutes, offline.

It is made from what the evidence hash covers and holds no time of its own, so that made again it is the same; its own
bytes belong to the evidence too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from sundial.execution.pages import MINUS, write_page
from sundial.execution.report import describe_gates
from sundial.formats import read_json
from sundial.pipeline import Pipeline
from sundial.release.approval import experimenter
from sundial.release.changes import Changes, compare_runs
from sundial.release.codes import needs_code
from sundial.release.effects import COMPARISON, Effects, Waiting, measure_effects, measure_waiting
from sundial.release.evidence import PAGE, PARITY, verdicts_of
from sundial.release.registry import Registry
from sundial.release.tables import Table, is_estimate, lay_out, matrix
from sundial.runs import Run
from sundial.settings import Settings, load_settings

# Scraps of the comparison that this page shows in words of its own, or that say how it was made.
SPOKEN = ("swaps", "alert_share", "alert_share_change", "requests", "mature_rows", "metrics", "against_production")
MOST_ROWS = 12


def render_approval(run: Run, pipeline: Pipeline, settings: Settings | None = None) -> Path:
    """Make the page that asks whether a candidate may become production.

    Parameters
    ----------
    run : Run
        The candidate's, after its gates.
    pipeline : Pipeline
        For segments, gates, approvers and bounds.
    settings : Settings, optional
        Read from the environment by default.

    Returns
    -------
    Path
        ``approval.html`` in the run's folder.
    """
    settings = settings or load_settings()
    registry = Registry(settings)
    deployment = read_json(run.verify_output("09_deploy_shadow", "deployment"))
    production = registry.alias(pipeline.name, "production")
    in_production = Run(settings.runs / production.run) if production and production.run else None
    if in_production is not None and not (in_production.folder / "manifest.json").is_file():
        in_production = None  # pruned, or made elsewhere
    changes = compare_runs(in_production, run, pipeline) if in_production else None
    effects = measure_effects(run, pipeline)
    waiting = measure_waiting(run, in_production, effects.requests if effects else 0) if effects else None
    verdicts = verdicts_of(run)
    results = [item for step in verdicts.values() for item in step]
    failed = [item for item in results if item["status"] == "failed"]
    manifest = run.manifest()
    version, present = deployment["version"], production.version if production else None
    currency = _currency(run)
    facts = {
        "Candidate": f"version {version}, of {run.as_of:%Y-%m-%d}",
        "In production": f"version {present}, of {production.as_of[:10]}" if production else "nothing yet",
        "Run": run.name,
        "Commit": str(manifest.get("commit") or "")[:10] + (", with changes" if manifest.get("dirty") else ""),
        "Started by": experimenter(run) or manifest.get("started_by") or "unknown",
        **_proofs(run),
    }
    page = {
        "kicker": f"{pipeline.title} · approval",
        "title": f"May version {version} decide{f' instead of version {present}' if present else ''}?",
        "lead": _say_lead(results, effects, waiting, currency),
        "question": pipeline.question,
        "status": "failed" if failed else "passed",
        "facts": facts,
        "trail": [
            {"text": run.name, "href": "index.html"},
            {"text": "approval", "href": ""},
        ],
        "cards": _cards(effects, waiting, currency),
        "effects": effects,
        "sentences": _say_effects(effects, _swaps(run), pipeline.label.column, currency),
        "policy": _say_policy(run),
        "gates": describe_gates({step: {"results": found} for step, found in verdicts.items()}),
        "comparison": _comparison_tables(run),
        "changes": changes,
        "unchanged": _unchanged(changes),
        "waiting": _say_waiting(waiting, present, currency),
        "rollback": _say_rollback(pipeline, version, present),
        "signing": _say_signing(run, pipeline, settings),
        "contents": [
            {"id": "different", "text": "What it will do differently"},
            {"id": "verdicts", "text": "What the gates say"},
            {"id": "comparison", "text": "Compared with production"},
            {"id": "changed", "text": "What changed"},
            {"id": "waiting", "text": "The cost of not releasing"},
            {"id": "rollback", "text": "If it goes wrong"},
            {"id": "signing", "text": "Who may sign"},
        ],
        "footer": "This page belongs to the evidence: its bytes are part of the hash that the form names, and the "
        "promotion is refused when they, a notebook, the model or a verdict are changed after the question.",
    }
    return write_page("approval", run.folder / PAGE, page)


def _proofs(run: Run) -> dict[str, str]:
    """Say what is proven: that a fresh server answers as the model scores, and that a release is its experiment."""
    facts = {}
    tried = run.scraps().get("09_deploy_shadow", {})
    if tried.get("requests_tried"):
        facts["Tried on a fresh server"] = (
            f"{tried['requests_tried']:,} requests, answered as scored, 95 % within {tried['latency_p95_ms']:.3g} ms"
        )
    if run.manifest().get("experiment"):
        certificate = read_json(run.folder / PARITY) if (run.folder / PARITY).is_file() else {}
        facts["Ships"] = f"{run.manifest()['experiment']}; parity {certificate.get('verdict', 'not proven')}"
        if certificate.get("sentence"):
            facts["Ships"] += f": {certificate['sentence']}"
    return facts


def _currency(run: Run) -> str:
    """Give the currency of the policy, where it has one."""
    if "policy" not in run.stage_record("08_evaluate_business").get("outputs", {}):
        return ""
    policy = read_json(run.verify_output("08_evaluate_business", "policy"))
    return {"USD": "$", "EUR": "€", "GBP": "£"}.get(policy.get("currency", ""), "")


def _money(amount: float, currency: str) -> str:
    sign = MINUS if amount < 0 else ""
    return f"{sign}{currency}{abs(amount):,.0f}"


def _percent(share: float | None) -> str:
    return "unknown" if share is None or not math.isfinite(share) else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _is_known(found: Any) -> TypeGuard[Mapping[str, Any]]:
    return is_estimate(found) and math.isfinite(found["estimate"])


def _with_interval(found: Mapping[str, Any], write: Callable[[float], str]) -> str:
    return f"{write(found['estimate'])} ({write(found['low'])} to {write(found['high'])})"


def _say_lead(results: list[dict[str, Any]], effects: Effects | None, waiting: Waiting | None, currency: str) -> str:
    """Say it in three sentences."""
    failed = sum(item["status"] == "failed" for item in results)
    skipped = sum(item["status"] == "skipped" for item in results)
    judged = len(results) - skipped
    said = [f"{failed} of {judged} gates failed." if failed else f"All {judged} gates passed."]
    if skipped:
        said[0] = said[0][:-1] + f", {skipped} had nothing to judge."
    if effects is not None:
        changed = effects.a_day(effects.newly + effects.no_longer)
        said.append(f"Of {effects.a_day(effects.requests):,.0f} requests a day it decides {changed:,.0f} otherwise.")
    if waiting is not None:
        middle = waiting.a_week[0]
        known = "" if waiting.is_clear else ", which may be chance"
        said.append(f"It is worth {_money(abs(middle), currency)} a week {'more' if middle >= 0 else 'less'}{known}.")
    return " ".join(said)


def _cards(effects: Effects | None, waiting: Waiting | None, currency: str) -> list[dict[str, str]]:
    """Give the three numbers to remember."""
    if effects is None:
        return []
    before, after = (effects.a_day(count) for count in (effects.alerts_before, effects.alerts_after))
    changed = effects.newly + effects.no_longer
    cards = [
        {
            "label": "Alerts a day",
            "value": f"{before:,.0f} → {after:,.0f}",
            "note": f"of {effects.a_day(effects.requests):,.0f} requests a day; "
            f"{_percent(effects.alerts_before / effects.requests)} → "
            f"{_percent(effects.alerts_after / effects.requests)}",
        },
        {
            "label": "Decisions that change",
            "value": f"{effects.a_day(changed):,.0f} a day",
            "note": f"{_percent(changed / effects.requests)} of requests: {effects.a_day(effects.newly):,.1f} newly "
            f"alerted, {effects.a_day(effects.no_longer):,.1f} no longer",
        },
    ]
    if waiting is not None:
        middle, low, high = waiting.a_week
        cards.append(
            {
                "label": "Worth against production",
                "value": f"{_money(middle, currency)} a week",
                "note": f"95 % interval {_money(low, currency)} to {_money(high, currency)}: "
                + ("clear of zero" if waiting.is_clear else "it may be nothing"),
            }
        )
    return cards


def _say_effects(effects: Effects | None, swaps: Mapping[str, Any], label: str, currency: str) -> list[str]:
    """Say how many decisions change each way, what came of them, and what that is worth; with intervals."""
    if effects is None:
        return [
            "This is the first version: no other has answered the same requests, so there is nothing to compare with. "
            "From the moment it is approved it decides about every request."
        ]
    said = [
        f"Counted on the {effects.requests:,} requests of {effects.days} days that both answered; tomorrow is expected "
        "to be like them.",
    ]
    methods: dict[str, None] = {}
    for name, count in (("newly alerted", effects.newly), ("no longer alerted", effects.no_longer)):
        found = swaps.get(name, {})
        parts = [f"{name.capitalize()}: {count:,} requests"]
        if _is_known(found.get("share")):
            parts[0] += f", {_with_interval(found['share'], _percent)} of all"
        if count and _is_known(found.get("label_share")):
            among = _with_interval(found["label_share"], _percent)
            parts.append(f"of {found['mature']:,} with a mature label {among} had {label} = 1")
        if count and _is_known(found.get("value")):
            worth = _with_interval(found["value"], lambda money: _money(money * effects.requests / 1000, currency))
            parts.append(f"to decide so about as many as these is worth {worth}")
        said.append("; ".join(parts) + ".")
        methods |= {item["method"]: None for item in found.values() if _is_known(item)}
    if methods:
        said.append(f"In brackets 95 % intervals: {', '.join(methods)}.")
    return said


def _say_policy(run: Run) -> list[str]:
    """Say from which score on it alerts, why, and what the threshold would do that keeps the share of alerts."""
    record = run.stage_record("08_evaluate_business")
    if "policy" not in record.get("outputs", {}):
        return []
    policy = read_json(run.verify_output("08_evaluate_business", "policy"))
    said = [f"It alerts from a score of {policy['threshold']:.4g} on: {policy.get('basis') or 'nobody said why'}."]
    found = run.scraps().get(COMPARISON, {}).get("policy")
    if not isinstance(found, Mapping) or not math.isfinite(found["threshold_for_the_same_share"]):
        return said
    groups = [found["largest_shift_of_a_group"], found["largest_shift_then"]]
    moved = (
        f"; the share of a group would move by at most {100 * groups[1]:.1f} points instead of {100 * groups[0]:.1f}"
        if all(map(math.isfinite, groups))
        else ""
    )
    offered = found["threshold_for_the_same_share"]
    before, after = _percent(found["alert_share_before"]), _percent(found["alert_share_after"])
    said.append(
        f"From {offered:.4g} on it would have alerted in that week as often as production, for {before} of requests "
        f"instead of {after}{moved}. The ranking is the same."
    )
    if record.get("parameters", {}).get("keep_alert_share") is False:
        said.append(
            "To keep production's share of alerts, reject this candidate and ship the other: sundial experiment "
            f"--as-of {run.as_of:%Y-%m-%d} --set 08_evaluate_business.keep_alert_share=true --name same-share, and "
            "then sundial ship same-share. It goes through the same gates, shadow and approval."
        )
    return said


def _swaps(run: Run) -> Mapping[str, Any]:
    """Read whose decision changes; empty before a comparison."""
    found = run.scraps().get(COMPARISON, {}).get("swaps")
    return found if isinstance(found, Mapping) else {}


def _comparison_tables(run: Run) -> list[Table]:
    """Lay out what the evaluation and the comparison recorded, in the order in which a person needs it."""
    scraps = run.scraps()
    found = scraps.get(COMPARISON, {})
    tables: list[Table] = []
    models, difference = found.get("metrics"), found.get("against_production")
    if isinstance(models, Mapping) and isinstance(difference, Mapping):
        lines = {
            name: {model: models[model].get(name) for model in models} | {"difference (positive: better)": estimate}
            for name, estimate in difference.items()
            if is_estimate(estimate)
        }
        tables.append(matrix(lines, "The same requests, mature labels (95 % intervals)"))
    swaps = _swaps(run)
    if swaps:
        tables += lay_out(swaps, "Whose decision changes, and what came of it (value: per 1,000 requests of all)")
    rest = {name: value for name, value in found.items() if name not in SPOKEN}
    tables += lay_out(rest, "How the two answer")
    by_set = scraps.get("07_evaluate_model", {}).get("against_production")
    if isinstance(by_set, Mapping):
        sets = {
            name: dict(line) for name, line in by_set.items() if isinstance(line, Mapping) and not is_estimate(line)
        }
        if sets:
            tables.append(matrix(sets, "Candidate - production on the evaluation sets, positive is better"))
    elif "metrics" in scraps.get("07_evaluate_model", {}):
        tables += lay_out(scraps["07_evaluate_model"]["metrics"], "On its evaluation sets")
    helped = scraps.get("06_train_model", {}).get("examples_helped")
    if isinstance(helped, Mapping) and helped:
        tables += lay_out(helped, "Whether the examples of the last reviews helped (positive: they did)")
    money = {
        name: value
        for name, value in scraps.get("08_evaluate_business", {}).items()
        if name in ("value_per_1000", "value_last_week") and isinstance(value, dict)
    }
    if money:
        tables.append(matrix(money, "Money per 1,000, on the evaluation sets"))
    return [
        Table(table.header, table.rows[:MOST_ROWS], table.title)
        if len(table.rows) <= MOST_ROWS
        else Table(
            table.header,
            (*table.rows[:MOST_ROWS], (f"… {len(table.rows) - MOST_ROWS} more",) + ("",) * (len(table.header) - 1)),
            table.title,
        )
        for table in tables
    ]


def _unchanged(changes: Changes | None) -> str:
    """Name what did not change, in one sentence."""
    if changes is None:
        return ""
    same = {
        "every cell of every notebook": not changes.cells,
        "every parameter": not changes.parameters.rows,
        "every installed package": not changes.environment.rows,
        "the commit": changes.commits[0] == changes.commits[1],
    }
    names = [name for name, holds in same.items() if holds]
    return f"The same as for the release of {changes.since_as_of}: {', '.join(names)}." if names else ""


def _say_waiting(waiting: Waiting | None, present: int | None, currency: str) -> list[str]:
    if present is None:
        return ["Without it nothing answers: callers get an error until a first version is approved."]
    if waiting is None:
        return ["Nobody has estimated money against production, so the cost of waiting is not known."]
    middle, low, high = waiting.a_week
    verdict = (
        f"Keeping version {present} another week ({waiting.requests:,} requests) is expected to cost "
        if middle >= 0
        else f"Keeping version {present} another week ({waiting.requests:,} requests) is expected to save "
    )
    said = [
        f"{verdict}{_money(abs(middle), currency)}; the 95 % interval of what the candidate is worth more is "
        f"{_money(low, currency)} to {_money(high, currency)}, from {waiting.basis} "
        f"({waiting.per_1000.get('rows', 0):,} rows, {waiting.per_1000.get('method', 'method not recorded')})."
    ]
    if not waiting.is_clear:
        said.append("The interval holds zero: in money alone neither choice is shown to be better.")
    then, now = waiting.learned_to
    said.append(f"Version {present} has learned from data up to {then}, the candidate up to {now}.")
    return said


def _say_rollback(pipeline: Pipeline, version: int, present: int | None) -> list[str]:
    if present is None:
        return ["There is no version to go back to: stopping the model server is the only way out."]
    return [
        f"Before the promotion counts, the way back is walked: the alias goes to version {version}, back to version "
        f"{present}, which must answer sample requests byte for byte as before, and forward again. If that fails, "
        f"version {present} stays.",
        f'Later, one command brings version {present} back within a second: sundial rollback --name "…" --reason "…".',
    ]


def _say_signing(run: Run, pipeline: Pipeline, settings: Settings) -> list[str]:
    if not pipeline.approvers:
        said = ["Anybody who can open the form may sign: pipeline.yaml names no approvers."]
    else:
        said = [f"{', '.join(pipeline.approvers)}."]
    asked = [name for name in pipeline.approvers or settings.approver_secrets if needs_code(name, settings)]
    said.append(
        f"{', '.join(asked)}: with a one-time code. Other names are taken as they are typed, which proves nothing."
        if asked
        else "No approver has a secret in the settings: names are taken as they are typed, which proves nothing."
    )
    author = experimenter(run)
    if author and pipeline.self_approval:
        said.append(
            f"{author} started this experiment and may sign it all the same: pipeline.yaml allows self-approval."
        )
    elif author:
        said.append(f"{author} started this experiment and may not sign it.")
    return said
