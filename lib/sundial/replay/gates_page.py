"""The page that tries the gates: what each would have stopped at each bound, against what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sundial.evaluation.backtest import MOVED, Case, choose_bounds, point_gates, sweep_gate, tabulate_gates
from sundial.formats import write_value
from sundial.pipeline import Gate
from sundial.replay.cases import collect_cases, find_scraps
from sundial.replay.charts import draw_sweeps
from sundial.replay.plantings import PLANTINGS
from sundial.replay.replays import Replay

FEWEST = 8  # weeks, of which half are chosen on
POINT_DROP = 0.01  # of the plain change gate as shown in the table; the sweep tries every other


def describe_gates(replay: Replay, scores: Mapping[pd.Timestamp, pd.DataFrame]) -> dict[str, Any]:
    """Describe the back-test of a pipeline's gates and of plain point gates beside them; writes its tables too."""
    cases = collect_cases(replay, scores)
    plain = _plain_gates(replay)
    steps = {"release": replay.pipeline.gates.release, "comparison": replay.pipeline.gates.comparison, "plain": plain}
    declared = [*steps["release"], *steps["comparison"]]
    table = tabulate_gates(declared, cases)
    beside = tabulate_gates(plain, cases)
    everything = pd.concat([table.assign(kind="declared"), beside.assign(kind="plain")], ignore_index=True)
    write_value(replay.tables, "gates", everything)
    swept = sweep_gates(steps, cases)
    if swept:
        write_value(replay.tables, "gates_sweep", pd.concat(swept.values(), ignore_index=True))
    halves, chosen = describe_choice({"declared": declared, "plain": plain}, cases)
    if not chosen.empty:
        write_value(replay.tables, "gates_chosen", chosen)
    real = [case for case in cases if not case.planted]
    counts = pd.Series([case.truth for case in real]).value_counts()
    truths = ", ".join(f"{count} {truth}" for truth, count in counts.items())
    return {
        "lead": f"{len(real)} real releases ({truths}) and {len(cases) - len(real)} planted bad ones.",
        "sections": [
            _describe_table(table, "declared", "The gates as declared, each alone", cases),
            *([_describe_table(beside, "plain", "Plain point gates, the baseline", cases)] if plain else []),
            _describe_sweep(swept),
            *halves,
            _describe_planted(cases),
            _describe_real(real),
        ],
    }


def _plain_gates(replay: Replay) -> list[Gate]:
    absolute, change = find_scraps(replay.pipeline.gates.release)
    bound = next((gate.at_least for gate in replay.pipeline.gates.release if gate.scrap == absolute), None)
    if not absolute or not change or bound is None:
        return []
    return point_gates(absolute, change, lowest=bound, drop=POINT_DROP)


def _describe_table(table: pd.DataFrame, name: str, title: str, cases: list[Case]) -> dict[str, Any]:
    kinds = [kind for kind in PLANTINGS if kind in table]
    rows = []
    for line in table.to_dict("records"):
        row = [line["gate"], line["judged"], line["stopped"], line["false_stops"]]
        row += [f"{line['stopped_worse']} of {line['worse']}"]
        rows.append([*row, *(f"{line[kind]} of {line[f'{kind} of']}" for kind in kinds)])
    failed = sum(bool(case.planted and case.failed_stage) for case in cases)
    return {
        "id": name,
        "title": title,
        "prose": [
            "A real release counts as worse when, on the requests of the week after its decision, it was worse than "
            "the production that it was to replace: the 95 % interval of the difference of ROC AUC lies below zero. "
            "Stopping any other is a false stop. The columns on the right are planted faults: stopped, of those made."
        ],
        "table": {"head": ["gate", "judged", "stopped", "false stops", "worse, stopped", *kinds], "rows": rows},
        "notes": [f"Planted releases that a failing stage stopped before any gate: {failed}."] if failed else [],
    }


def sweep_gates(steps: Mapping[str, Sequence[Gate]], cases: Sequence[Case]) -> dict[str, pd.DataFrame]:
    """Try every bound of all gates.

    Parameters
    ----------
    steps : mapping of str to sequence of Gate
        Gates by where they stand.
    cases : sequence of Case
        Real and planted.

    Returns
    -------
    dict of str to DataFrame
        As of :func:`sundial.evaluation.backtest.sweep_gate`, for each bound that makes a difference; named by its gate,
        and by step or bound too where the gate's name is not enough.
    """
    names = Counter(gate.gate for gates in steps.values() for gate in gates)
    found: dict[str, pd.DataFrame] = {}
    for step, gate in [(step, gate) for step, gates in steps.items() for gate in gates]:
        swept = sweep_gate(gate, cases)
        bounds = list(swept["moved"].unique()) if not swept.empty else []
        for moved in bounds:
            more = [*([step] if names[gate.gate] > 1 else []), *([moved] if len(bounds) > 1 else [])]
            found[gate.gate + (f" ({', '.join(more)})" if more else "")] = swept[swept["moved"] == moved]
    return found


def _describe_sweep(sweeps: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    rows = []
    for name, found in sweeps.items():
        quiet = found[found["false_stops"] == 0]
        best = quiet.sort_values("caught", kind="stable").iloc[-1] if len(quiet) else None
        own = found[found["declared"]].iloc[0]
        at = [best["bound"], f"{best['caught']} of {best['planted']}"] if best is not None else ["", ""]
        rows.append([name, own["bound"], f"{own['caught']} of {own['planted']}", int(own["false_stops"]), *at])
    head = [
        "gate",
        "declared bound",
        "planted stopped",
        "false stops",
        "best bound without false stops",
        "stopped there",
    ]
    return {
        "id": "bounds",
        "title": "At every bound",
        "prose": ["Up and to the left is better: more planted bad releases stopped, fewer sound ones with them."],
        "figures": [
            {
                "src": draw_sweeps({name: found for name, found in sweeps.items() if found["planted"].max() > 0}),
                "alt": "Planted bad releases stopped over sound releases stopped, a line a gate",
            }
        ]
        if any(found["planted"].max() > 0 for found in sweeps.values())
        else [],
        "table": {"head": head, "rows": rows},
    }


def describe_choice(
    groups: Mapping[str, Sequence[Gate]], cases: Sequence[Case]
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Describe the bounds that the first half of the weeks would have chosen, and how they did in the second.

    Parameters
    ----------
    groups : mapping of str to sequence of Gate
        Gates by what they are, such as ``declared``; those of a group are also tried together.
    cases : sequence of Case
        Real and planted, named by their week.

    Returns
    -------
    tuple of list of dict and DataFrame
        Sections of the page, none of fewer than eight weeks; and a row a bound that was moved.
    """
    weeks = sorted({case.name for case in cases if not case.planted})
    if len(weeks) < FEWEST:
        return [], pd.DataFrame()
    middle = weeks[len(weeks) // 2]
    first, second = ([case for case in cases if (case.name < middle) == early] for early in (True, False))
    lines, together = [], []
    for kind, gates in groups.items():
        if not gates:
            continue
        chosen = choose_bounds(gates, first)
        tried = {
            "as declared": [tabulate_gates(gates, half) for half in (first, second)],
            "as chosen": [tabulate_gates(chosen, half) for half in (first, second)],
        }
        for words, halves in tried.items():
            ends = [_tally_both(table.iloc[-1]) for table in halves]
            together.append(
                [f"{kind} gates, bounds {words}", *(end[key] for end in ends for key in ("false_stops", "caught"))]
            )
        later = tried["as chosen"][1]
        for row, (gate, moved) in enumerate(zip(gates, chosen, strict=True)):
            for name in MOVED:
                if getattr(moved, name) != getattr(gate, name):
                    bounds = {"declared": getattr(gate, name), "chosen": getattr(moved, name)}
                    one = {"kind": kind, "gate": gate.gate, "bound": name, **bounds, **_tally_both(later.iloc[row])}
                    lines.append(one)
    head = ["gate", "bound", "declared", "chosen", "false stops later", "planted stopped later"]
    rows = [[line[key] for key in ("gate", "bound", "declared", "chosen", "false_stops", "caught")] for line in lines]
    sections: list[dict[str, Any]] = [
        {
            "id": "halves",
            "title": "Bounds chosen on the first half, tried on the second",
            "prose": [
                "Each bound on an estimate is put where it would have stopped none of the sound releases before "
                f"{middle}, and tried on those from then on. While a number stays as it was, such a bound stops the "
                f"next release with a probability of 1 in {len(weeks) // 2 + 1} (Wilks 1941): where it stops more, the "
                "number has moved."
            ],
            "table": {"head": head, "rows": rows},
        },
        {
            "id": "halves-together",
            "title": "All of them together, in both halves",
            "prose": ["What chosen bounds stop in the first half proves nothing: it is what they were chosen on."],
            "table": {
                "head": ["gates", "false stops", "planted stopped", "false stops later", "planted stopped later"],
                "rows": together,
            },
        },
    ]
    return sections, pd.DataFrame(lines)


def _tally_both(line: pd.Series[Any]) -> dict[str, str]:
    """Put a row of a back-test into words: sound releases that were stopped, and planted ones."""
    kinds = [kind for kind in PLANTINGS if kind in line]
    caught, planted = (sum(int(line[f"{kind}{of}"]) for kind in kinds) for of in ("", " of"))
    return {"false_stops": f"{line['false_stops']} of {line['sound']}", "caught": f"{caught} of {planted}"}


def _describe_planted(cases: list[Case]) -> dict[str, Any]:
    rows = [
        [
            case.planted,
            case.name,
            case.failed_stage or "",
            *([round(100 * case.later[end], 2) for end in ("estimate", "low", "high")] if case.later else ["", "", ""]),
            case.truth,
        ]
        for case in cases
        if case.planted
    ]
    return {
        "id": "planted",
        "title": "What the planted releases would have done",
        "prose": [
            "In points of ROC AUC against the production of that week, on the requests of the week after. Not every "
            "fault harms every week: one that changes nothing then is no miss."
        ],
        "table": {"head": ["fault", "week", "failing stage", "difference", "low", "high", "came out"], "rows": rows},
        "notes": [] if rows else ["None was planted: sundial replay --plant 6."],
    }


def _describe_real(real: list[Case]) -> dict[str, Any]:
    rows = [
        [case.name, *([round(100 * case.later[end], 2) for end in ("estimate", "low", "high")]), case.truth]
        for case in real
        if case.later
    ]
    return {
        "id": "real",
        "title": "What came of the real ones",
        "prose": ["Points of ROC AUC against the production that it was to replace, on the week after its decision."],
        "table": {"head": ["week", "difference", "low", "high", "came out"], "rows": rows},
    }
