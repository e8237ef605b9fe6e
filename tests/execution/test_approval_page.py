"""The page that a person signs says what will be different, to whom, what changed, and what waiting costs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from pydantic import SecretStr

from sundial.declarations import SegmentSpec
from sundial.errors import EvidenceChangedError, SundialError
from sundial.execution.approval_page import render_approval
from sundial.formats import hash_file, read_json, write_json_atomically
from sundial.pipeline import Pipeline
from sundial.release.approval import check_approval, evidence_hash
from sundial.release.changes import compare_runs
from sundial.release.effects import measure_effects
from sundial.release.environment import record_environment
from sundial.release.models import build_model_folder
from sundial.release.questions import ask_question
from sundial.release.registry import Registry
from sundial.release.rules import read_rules
from sundial.runs import Run
from sundial.settings import Settings
from tests.release.conftest import (  # noqa: F401  fixtures
    _one_thread,
    empty_database,
    fitted,
    judged,
    make_run,
    pipeline,
    registry,
    run,
    save,
    settings,
)

MONEY = {"estimate": 50.0, "low": 10.0, "high": 90.0, "confidence": 0.95, "rows": 600, "method": "paired jackknife"}


@pytest.fixture
def toys(pipeline: Pipeline) -> Pipeline:  # noqa: F811  a fixture
    """Watch the makers, and let two people sign."""
    return pipeline.model_copy(
        update={"segments": (SegmentSpec(name="maker", columns=("maker",)),), "approvers": ("ada", "grace")}
    )


@pytest.fixture
def compared(judged: Run, settings: Settings) -> Run:  # noqa: F811  fixtures
    """Give a candidate that alerts more of one maker's toys, with money against production."""
    rows = 700
    joined = pd.DataFrame(
        {
            "toy_id": range(rows),
            "sold": pd.Timestamp("2013-10-07") + pd.to_timedelta([index % 7 for index in range(rows)], unit="D"),
            "maker": ["acme"] * 350 + ["bobo"] * 310 + ["rare"] * 40,
            "production_decision": [index % 10 == 0 for index in range(rows)],
            "broken": [float(index % 4 == 0) for index in range(rows)],
        }
    )
    more = joined["maker"].eq("bobo") & joined["toy_id"].mod(5).eq(0)
    joined["shadow_decision"] = joined["production_decision"] | more
    save(judged, "10_compare_shadow", comparison={"rows": rows}, joined=joined)
    scraps = judged.stage_record("10_compare_shadow")["scraps"]
    scraps["against_production"]["value"] = MONEY
    scraps["policy"] = {
        "threshold_for_the_same_share": 0.5128,
        "alert_share_before": 0.1,
        "alert_share_after": 0.14,
        "largest_shift_of_a_group": 0.1,
        "largest_shift_then": 0.021,
    }
    judged.update_stage("08_evaluate_business", parameters={"keep_alert_share": False})
    scraps["guardrail"] = {"worse": {"maker=bobo": {"estimate": -0.1, "low": -0.2, "high": -0.01}}}
    judged.update_stage("10_compare_shadow", scraps=scraps)
    return judged


@pytest.fixture
def earlier(
    make_run: Callable[..., Run],  # noqa: F811  a fixture
    registry: Registry,  # noqa: F811  a fixture
    toys: Pipeline,
    tmp_path: Path,
) -> Run:
    """Put an earlier release into production."""
    made = make_run("2013-09-23", seed=1)
    version = registry.register("toy", build_model_folder(made, tmp_path / "servable", pipeline=toys))
    registry.set_alias("toy", "production", version)
    return made


def text_of(page: Path) -> str:
    """Read a page as its reader does."""
    html = re.sub(r"(?s)<(style|script).*?</\1>", "", page.read_text())
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_it_says_what_will_be_different_and_to_whom(
    compared: Run,
    earlier: Run,
    toys: Pipeline,
    settings: Settings,  # noqa: F811  a fixture
) -> None:
    """One page: decisions a day, for whom they change, gates, money a week, the way back, and who may sign."""
    page = render_approval(compared, toys, settings)
    text = text_of(page)

    for part in (
        "May version 2 decide instead of version 1?",
        "All 1 gates passed.",
        "Of 100 requests a day it decides 4 otherwise.",
        "It is worth 35 a week more.",
        "10 → 14",
        "maker bobo 310 10.0 % 20.0 % 31 0",
        "1 more values had fewer than 50 requests",
        "Newly alerted: 31 requests; of 88 with a mature label 31.0 % (24.1 % to 38.2 %) had broken = 1; "
        "to decide so about as many as these is worth 238 (−14 to 490).",
        "It alerts from a score of 0.4 on: economics.",
        "From 0.5128 on it would have alerted in that week as often as production, for 10.0 % of requests instead "
        "of 14.0 %; the share of a group would move by at most 2.1 points instead of 10.0. The ranking is the same.",
        "--as-of 2013-09-30 --set 08_evaluate_business.keep_alert_share=true --name same-share",
        "95 % intervals: jackknife over 5 days, paired jackknife over 5 days.",
        "maker=bobo",
        "Keeping version 1 another week (700 requests) is expected to cost 35",
        "7 to 63",
        "which must answer sample requests byte for byte as before",
        "ada, grace.",
        "which proves nothing",
    ):
        assert part in text, part
    assert [] == re.findall(r"(?:src|href)=['\"]?(?:https?:)?//", page.read_text()), "it opens offline"
    before = page.read_bytes()
    assert before == render_approval(compared, toys, settings).read_bytes(), "made again it is the same"


def test_its_bytes_are_signed(
    compared: Run,
    registry: Registry,  # noqa: F811  a fixture
    toys: Pipeline,
    settings: Settings,  # noqa: F811  a fixture
) -> None:
    """A page that was touched up after the question is refused by its name; a first version has a page too."""
    page = render_approval(compared, toys, settings)
    assert "This page belongs to the evidence" in text_of(page)
    assert "Without it nothing answers" in text_of(page)
    evidence = evidence_hash(compared)
    ask_question(compared, "approval", evidence, toys.schedule.approval_expires)
    page.write_text(page.read_text().replace("35 a week", "3500 a week"))

    with pytest.raises(EvidenceChangedError, match="approval.html changed in between"):
        check_approval(compared, evidence, toys, "ada", settings=settings)


def write_notebook(run: Run, stage: str, cells: dict[str, str], **outputs: object) -> None:  # noqa: F811  a name
    """Write an executed notebook: sources by id, and an output and a count that differ each time."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell("as_of = 'x'", metadata={"tags": ["injected-parameters"]})]
    for index, (identity, source) in enumerate(cells.items()):
        shown = nbformat.v4.new_output("stream", text=f"{run.name} took {index}.3 s")
        notebook.cells.append(
            nbformat.v4.new_code_cell(source, id=identity, outputs=[shown], execution_count=index + len(run.name))
        )
    nbformat.write(notebook, run.stage_folder(stage) / "notebook.ipynb")
    run.update_stage(stage, notebook_sha256=f"{hash(str(cells))}", **outputs)


def test_what_changed_is_found_and_noise_is_not(
    compared: Run,
    make_run: Callable[..., Run],  # noqa: F811  a fixture
    toys: Pipeline,
) -> None:
    """A changed, an added and a removed cell, a parameter, a package, sizes; not outputs, times, counts or dates."""
    earlier = make_run("2013-09-23", seed=1)
    same = {"a": "x = 1", "b": "y = 2", "c": "z = 3"}
    write_notebook(earlier, "04_build_training_set", same)
    write_notebook(compared, "04_build_training_set", same)
    write_notebook(
        earlier, "06_train_model", same, parameters={"as_of": "2013-09-23", "max_iter": 200}, scraps={"rows": 1}
    )
    changed = {"a": "x = 1", "b": "y = 2\nprint(y)", "d": "w = 4\nfor _ in range(w):\n    x += w"}
    write_notebook(compared, "06_train_model", changed, parameters={"as_of": "2013-09-30", "max_iter": 400})
    for one in (earlier, compared):
        record_environment(one)
    path = earlier.folder / "environment.json"
    old = read_json(path)
    old["packages"]["pandas"] = "2.0"
    write_json_atomically(path, old)

    changes = compare_runs(earlier, compared, toys)

    assert {("b", "changed"), ("c", "removed"), ("d", "added")} == {(item.cell, item.kind) for item in changes.cells}
    assert {"06_train_model"} == {item.stage for item in changes.cells}
    assert next(item.lines for item in changes.cells if item.cell == "b") == (" y = 2", "+print(y)")
    share = ("08_evaluate_business", "keep_alert_share", "none", "no")
    assert (("06_train_model", "max_iter", "200", "400"), share) == changes.parameters.rows
    assert [("pandas", "2.0")] == [row[:2] for row in changes.environment.rows]
    assert ("rows of training set (04)", "", "") not in changes.data.rows


def test_effects_of_nothing_are_nothing(judged: Run, toys: Pipeline) -> None:  # noqa: F811  a fixture
    """Before a comparison there is nothing to count."""
    assert None is measure_effects(judged, toys)
    assert hash_file(judged.folder / "gates.json")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List the paths to what a JSON document says; of many alike only the first and the last."""
    if isinstance(value, dict):
        keys = list(value)
        for key in keys if len(keys) <= 12 else [keys[0], keys[-1]]:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1}) if value else ():
            yield from leaves(value[index], (*path, index))
    else:
        yield path


def other(value: Any) -> Any:
    """Give another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 0.25 if isinstance(value, float) else value + 1
    return f"{value or ''}9"


def changed(document: Any, path: tuple[Any, ...]) -> Any:
    """Copy a document with one value changed."""
    copied = json.loads(json.dumps(document))
    place = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = other(place[path[-1]])
    return copied


def test_whatever_the_page_shows_is_bound(
    compared: Run,
    earlier: Run,
    toys: Pipeline,
    settings: Settings,  # noqa: F811  a fixture
) -> None:
    """Each value of each record of the run, changed alone: where the page would be another, so is the evidence."""
    for one in (earlier, compared):
        record_environment(one)
        for stage in one.stages():
            write_notebook(one, stage, {"a": f"x = '{one.name}'" if stage == "06_train_model" else "x = 1"})
    compared.update(experiment="experiment-toy", experimenter="Ada")
    certificate = {"verdict": "explained", "sentence": "9 of 10 figures are equal", "items": [{"stage": "06"}]}
    write_json_atomically(compared.folder / "parity.json", certificate)
    compared.update_stage("09_deploy_shadow", scraps={"requests_tried": 32, "latency_p95_ms": 8.1})
    compared.update_stage(
        "06_train_model", parameters={"max_iter": 400}, scraps={"examples_helped": {"roc_auc": MONEY}}
    )
    page = render_approval(compared, toys, settings)
    signed, evidence = page.read_bytes(), evidence_hash(compared)
    for part in ("9 of 10 figures are equal", "32 requests, answered as scored", "Ada started this experiment"):
        assert part in text_of(page), part

    seen = 0
    for path in sorted(compared.folder.rglob("*.json")):
        whole = path.read_bytes()
        for place in leaves(json.loads(whole)):
            path.write_text(json.dumps(changed(json.loads(whole), place)))
            try:
                shown = render_approval(compared, toys, settings).read_bytes()
            except SundialError:  # refused before anything is shown
                continue
            finally:
                page.write_bytes(signed)
                bound = evidence_hash(compared) != evidence
                path.write_bytes(whole)
            seen += shown != signed
            assert bound or shown == signed, f"{path.name} {place} is shown and not bound"

    assert evidence == evidence_hash(compared)
    assert seen > 60, "the page shows what is changed here"


def test_whatever_the_page_shows_of_the_rules_is_kept(
    compared: Run,
    earlier: Run,
    toys: Pipeline,
    settings: Settings,  # noqa: F811  a fixture
) -> None:
    """Of pipeline.yaml and the settings: where a change makes another page, an answer is refused, and says what."""
    compared.update(experiment="experiment-toy", experimenter="Ada")
    asked_settings = settings.model_copy(update={"approver_secrets": {"ada": SecretStr("JBSWY3DPEHPK3PXP")}})
    signed = render_approval(compared, toys, asked_settings).read_bytes()
    evidence = evidence_hash(compared)
    expires = toys.schedule.approval_expires
    ask_question(compared, "approval", evidence, expires, rules=read_rules(toys, asked_settings))
    check_approval(compared, evidence, toys, "grace", settings=asked_settings)

    label = toys.label.model_copy(update={"column": "cracked"})
    others = {
        "title": "Toys that last",
        "question": "Will it last?",
        "approvers": ("ada", "grace", "mallory"),
        "self_approval": True,
        "label": label,
        "segments": (SegmentSpec(name="producer", columns=("maker",)),),
    }
    for name, value in others.items():
        edited = toys.model_copy(update={name: value})
        assert signed != render_approval(compared, edited, asked_settings).read_bytes(), name
        (compared.folder / "approval.html").write_bytes(signed)
        with pytest.raises(EvidenceChangedError, match=f"other rules: {name} was"):
            check_approval(compared, evidence, edited, "grace", settings=asked_settings)
    with pytest.raises(EvidenceChangedError, match="one-time code was 'ada' and is 'nobody'"):
        check_approval(compared, evidence, toys, "grace", settings=settings)
