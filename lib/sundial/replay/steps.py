"""What each step of a replayed week does: the same calls that the flows make, in the week's own time.

Each can be done again after having been interrupted anywhere: stages that succeeded stay, requests that were answered
are not logged twice, a decision stands. What a step came to is a record of its own, written last.

A step is one thread for numbers, its notebooks too: steps share the processors, and sums that threads add up in another
order are not the same in the last bit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pandas as pd

from sundial.errors import GateFailedError, KernelDiedError, StageFailedError
from sundial.evaluation.gates import GateResult, judge_gates
from sundial.execution.report import render_run
from sundial.execution.runner import run_stage
from sundial.operations.handover import withdraw
from sundial.release.approval import Decision, decisions, evidence_hash, record_decision
from sundial.release.registry import Registry
from sundial.release.steps import begin_release, monitoring_date, pass_gates, remaining_stages
from sundial.replay.plan import group_stages
from sundial.replay.policies import Question, find_policy, signature
from sundial.replay.replays import WEEK, Replay, isolate, open_replay, write_record
from sundial.replay.traffic import serve_requests
from sundial.runs import Run, now
from sundial.serving.process import limit_threads

logger = logging.getLogger("sundial.replay")

Record = dict[str, Any]


def run_step(folder: str, week: int, kind: str) -> Record:
    """Do one step, wherever this process is, and write down what it came to.

    Parameters
    ----------
    folder : str
        Of the replay; with a store that several machines share, its path on this one.
    week : int
        Number of the week, from 0.
    kind : str
        See :mod:`sundial.replay.plan`.

    Returns
    -------
    dict
        ``week``, ``kind``, ``outcome`` (``done``, ``stopped`` when a stage or a gate ended the week's release, or
        ``nothing`` when there was nothing to do), ``message``, ``run``, ``seconds``, ``at`` and what the kind adds.

    Raises
    ------
    SundialError, OSError
        For what is no outcome of a week but a fault of this machine; the step has no record then, and is done again.
    """
    limit_threads()
    replay = open_replay(folder)
    begun = time.monotonic()
    with isolate(replay.settings):
        found = _find_step(kind)(replay, week)
        if kind in ("judgement", "decision", "review") and found.get("run"):
            # verdicts and answers came after the last notebook, and its page knows nothing of them
            render_run(Run(replay.settings.runs / found["run"]), replay.settings)
    record = {"week": week, "kind": kind, "outcome": "done", "message": "", "run": "", **found}
    record |= {"seconds": round(time.monotonic() - begun, 2), "at": now()}
    write_record(replay, record)
    logger.info("%s %s: %s %s", f"{replay.weeks[week]:%Y-%m-%d}", kind, record["outcome"], record["message"])
    return record


def _find_step(kind: str) -> Callable[[Replay, int], Record]:
    if kind.startswith("planted "):
        from sundial.replay.planted import plant_release

        return lambda replay, week: plant_release(replay, week, kind.removeprefix("planted "))
    if kind == "scores":
        from sundial.replay.scoring import score_week

        return score_week
    return {
        "data": prepare_data,
        "training": train,
        "judgement": judge,
        "traffic": serve,
        "decision": decide,
        "review": review,
    }[kind]


def find_run(replay: Replay, week: int) -> Run:
    """Find the run of a week's release, or begin it."""
    date = f"{replay.weeks[week]:%Y-%m-%d}"
    started_by, key = f"replay {replay.name}", f"replay {replay.name} {date}"
    return begin_release(replay.pipeline, date, started_by=started_by, key=key, settings=replay.settings)


def run_stages(
    replay: Replay, run: Run, stages: tuple[str, ...], *, as_of: pd.Timestamp | None = None, **parameters: Any
) -> Record:
    """Run those of some stages that have not succeeded; a kernel that was killed gets a second chance, as in a flow.

    Returns
    -------
    dict
        Empty, or the outcome ``stopped`` with the reason, when one failed.
    """
    for stage in remaining_stages(run, stages):
        for chances in (1, 0):
            try:
                run_stage(run, stage, as_of=as_of, parameters=parameters, settings=replay.settings)
                break
            except KernelDiedError as error:
                if not chances:
                    return stopped(run, error.message)
            except StageFailedError as error:
                return stopped(run, error.message)
    return {}


def stopped(run: Run, reason: str) -> Record:
    """Say that a week's release ended here."""
    return {"outcome": "stopped", "message": reason.partition("\n")[0], "run": run.name}


def prepare_data(replay: Replay, week: int) -> Record:
    """Run the stages that no other week has anything to do with."""
    run = find_run(replay, week)
    return run_stages(replay, run, group_stages(replay.pipeline)["data"]) or {"run": run.name}


def train(replay: Replay, week: int) -> Record:
    """Run the stages from the one that reads the examples of reviews."""
    groups, run = group_stages(replay.pipeline), find_run(replay, week)
    if any(not run.succeeded(stage) for stage in groups["data"]):
        return {"outcome": "nothing", "message": "the stages before failed", "run": run.name}
    return run_stages(replay, run, groups["training"]) or {"run": run.name}


def judge(replay: Replay, week: int) -> Record:
    """Judge the candidate beside production, pass its gates, and put it into the shadow.

    The first release has nothing to be compared with: as in the flow, the policy is asked right away.
    """
    groups, run = group_stages(replay.pipeline), find_run(replay, week)
    if any(not run.succeeded(stage) for stage in (*groups["data"], *groups["training"])):
        return {"outcome": "nothing", "message": "the stages before failed", "run": run.name}
    if "first_release" not in run.manifest():  # written down before anything moves, for when this is done again
        run.update(first_release=Registry(replay.settings).alias(run.pipeline, "production") is None)
    ended = run_stages(replay, run, groups["judgement"])
    if ended:
        return ended
    try:
        pass_gates(run, replay.pipeline, "release")
    except GateFailedError as error:
        return stopped(run, error.message)
    ended = run_stages(replay, run, ("09_deploy_shadow",))
    if ended:
        return ended
    first = bool(run.manifest()["first_release"])
    return {"run": run.name, "first": first, **(_ask_and_promote(replay, run, run.as_of) if first else {})}


def serve(replay: Replay, week: int) -> Record:
    """Answer the requests of the week, up to the moment of its decision."""
    start = replay.weeks[week]
    return _serve(replay, start, start + pd.Timedelta(replay.pipeline.schedule.soak))


def _serve(replay: Replay, start: pd.Timestamp, end: pd.Timestamp) -> Record:
    served = serve_requests(replay.pipeline, start, end, replay.settings)
    if served.version is None:
        return {"outcome": "nothing", "message": "nothing is in production"}
    return {"requests": served.requests, "version": served.version, "shadow_rows": served.shadow_rows}


def decide(replay: Replay, week: int) -> Record:
    """When the soak is over, compare shadow and production, let the policy answer, and promote what it approves."""
    run, as_of = find_run(replay, week), replay.weeks[week] + pd.Timedelta(replay.pipeline.schedule.soak)
    record = _decide(replay, run, as_of)
    if as_of < replay.weeks[week] + WEEK:
        record |= {"rest": _serve(replay, as_of, replay.weeks[week] + WEEK)}
    return record


def _decide(replay: Replay, run: Run, as_of: pd.Timestamp) -> Record:
    if not run.succeeded("09_deploy_shadow"):
        return {"outcome": "nothing", "message": "the week made no candidate", "run": run.name}
    if run.manifest()["first_release"]:
        promoted = run.stage_record("11_promote_model").get("as_of", "") if run.succeeded("11_promote_model") else ""
        return {"outcome": "nothing", "message": "decided as a first release", "run": run.name, "promoted": promoted}
    if not decisions(run):  # once there is one it stands, and so does what it is bound to
        ended = run_stages(replay, run, ("10_compare_shadow",), as_of=as_of)
        if ended:
            return ended
        try:
            pass_gates(run, replay.pipeline, "comparison")
        except GateFailedError as error:
            return stopped(run, error.message)
    return {"run": run.name, **_ask_and_promote(replay, run, as_of)}


def _ask_and_promote(replay: Replay, run: Run, as_of: pd.Timestamp) -> Record:
    """Let the policy answer the question of the approval, and do what it says."""
    decision = _ask(replay, run, "approval", ("release", "comparison"))
    if decision.decision != "approve":
        withdraw(run, decision, replay.settings)
        return {"outcome": "stopped", "message": f"rejected: {decision.reason}", "promoted": ""}
    signed = {"approver": decision.name, "reason": decision.reason, "evidence": decision.evidence}
    ended = run_stages(replay, run, ("11_promote_model",), as_of=as_of, **signed)
    return ended or {"promoted": as_of.isoformat()}


def _ask(replay: Replay, run: Run, question: Question, steps: tuple[str, ...]) -> Decision:
    """Ask the policy once; later its answer is read."""
    for earlier in decisions(run):
        if earlier.kind == question:
            return earlier
    answer = find_policy(replay.approve)(question, _judge_again(replay, run, steps))
    evidence = evidence_hash(run, kind=question)
    name = signature(replay.approve)
    decision = Decision(
        question, answer.decision, name, answer.reason, evidence, now(), run.name, proof="nobody was asked"
    )
    return record_decision(run, decision)


def _judge_again(replay: Replay, run: Run, steps: tuple[str, ...]) -> list[GateResult]:
    """Judge the gates that were passed, for the policy to read; a first release has no comparison to judge."""
    scraps = run.scraps()
    gates = replay.pipeline.gates
    passed = [step for step in steps if step != "comparison" or "10_compare_shadow" in scraps]
    return [result for step in passed for result in judge_gates(getattr(gates, step), scraps)]


def review(replay: Replay, week: int) -> Record:
    """When the labels of the watched production are mature, measure it, let the policy answer, keep what was learnt."""
    run = find_run(replay, week)
    if not run.succeeded("11_promote_model"):
        return {"outcome": "nothing", "message": "nothing was promoted", "run": run.name}
    promoted = pd.Timestamp(run.stage_record("11_promote_model")["as_of"])
    if promoted + pd.Timedelta(replay.pipeline.schedule.watch) > replay.end:
        return {"outcome": "nothing", "message": "its watch ends after the replay", "run": run.name}
    as_of = monitoring_date(promoted, replay.pipeline)
    if not any(item.kind == "review" for item in decisions(run)):
        ended = run_stages(replay, run, ("12_monitor_production",), as_of=as_of)
        if ended:
            return ended
    alarm = ""
    try:
        pass_gates(run, replay.pipeline, "monitoring")
    except GateFailedError as error:
        alarm = error.message
    answer = _ask(replay, run, "review", ("monitoring",))
    said = {"decision": answer.decision, "reviewer": answer.name, "reason": answer.reason}
    ended = run_stages(replay, run, ("13_review_production",), as_of=as_of, **said)
    return ended or {"run": run.name, "answer": answer.decision, "alarm": alarm}
