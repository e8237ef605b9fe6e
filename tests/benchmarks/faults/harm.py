"""Does the harm of the fault matrix from inside of a stage's notebook; copied into the project that is harmed.

Every notebook of that project calls :func:`first` behind its parameters and :func:`last` at its end, also in the
undisturbed releases. They do nothing unless ``harm/<pipeline>.json`` arms them for this very stage.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd

from sundial.formats import hash_file, write_bytes_atomically
from sundial.pipeline import load_pipeline
from sundial.runs import Run, list_runs, open_run
from sundial.settings import load_settings

CGROUP = Path("/sys/fs/cgroup/memory/sundial-bench")
MEMORY = 300 << 20  # bytes that the kernel may take beyond what it had
FOREVER = 900.0
FILL = (1 << 24, 1 << 16, 4096, 1)
# which input is harmed, where the first that is a table would not do
INPUTS = {
    "09_deploy_shadow": "05_build_evaluation_sets/evaluation_set",
    "10_compare_shadow": "09_deploy_shadow/deployment",
    "11_promote_model": "09_deploy_shadow/deployment",
    "12_monitor_production": "11_promote_model/promotion",
    "13_review_production": "12_monitor_production/observed",
}


def folder() -> Path:
    """Give the folder that says who is harmed, and what was done."""
    return load_settings().root / "harm"


def armed(pipeline: str, stage: str, run: str) -> str:
    """Name the fault that is armed for a stage of a release; empty for none."""
    path = folder() / f"{pipeline}.json"
    if not path.exists() or not run.startswith(pipeline):
        return ""
    said = json.loads(path.read_text())
    return str(said["fault"]) if said["stage"] == stage else ""


def note(pipeline: str, stage: str, fault: str) -> None:
    """Write down when it happened."""
    entry = {"stage": stage, "fault": fault, "at": time.time(), "pid": os.getpid()}
    with (folder() / f"{pipeline}.happened").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def first(stage: str, pipeline: str, run: str) -> None:
    """Do the harm that is armed, behind the parameters of a notebook."""
    fault = armed(pipeline, stage, run)
    if not fault or (fault, stage) == ("corrupt artifact", "01_query_data"):
        return
    opened = open_run(run)
    if fault == "empty input":
        make_empty(opened, stage)
    elif fault == "stale input":
        make_stale(opened, stage)
    elif fault == "corrupt artifact":
        maker, output = input_of(opened, stage)
        cut(opened, maker, output)
    elif fault == "disk full":
        fill(load_settings().runs / ".ballast")
    note(pipeline, stage, fault)
    if fault == "exception":
        raise RuntimeError("a fault of the matrix")
    if fault in ("hang", "worker killed"):
        time.sleep(FOREVER)
    if fault == "kernel killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "out of memory":
        devour()
    while fault == "Prefect server restarted" and armed(pipeline, stage, run):  # until the server is gone
        time.sleep(0.02)


def last(stage: str, pipeline: str, run: str) -> None:
    """Corrupt what the first stage made, which reads no artifact, before its runner looks at it."""
    if stage == "01_query_data" and armed(pipeline, stage, run) == "corrupt artifact":
        cut(open_run(run), stage, "events", keep=False)
        note(pipeline, stage, "corrupt artifact")


def input_of(run: Run, stage: str) -> tuple[str, str]:
    """Choose the input that is harmed: maker and output."""
    inputs = load_pipeline(run.pipeline).stage(stage).inputs
    tables = [item for item in inputs if path_of(run, *item.split("/")).suffix == ".parquet"]
    maker, _, output = INPUTS.get(stage, (tables or list(inputs))[0]).partition("/")
    return maker, output


def path_of(run: Run, maker: str, output: str) -> Path:
    """Give the file of an output."""
    return run.folder / run.stage_record(maker)["outputs"][output]["path"]


def keep_copy(run: Run, maker: str, output: str) -> Path:
    """Keep an output and its record, for whoever mends it; give the output."""
    path = path_of(run, maker, output)
    kept = folder() / f"{run.pipeline}.kept"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    record = run.stage_folder(maker) / "stage.json"
    shutil.copyfile(path, kept / "output")
    shutil.copyfile(record, kept / "record")
    (kept / "where.json").write_text(json.dumps({"output": str(path), "record": str(record)}))
    return path


def make_empty(run: Run, stage: str) -> None:
    """Let an input be what a maker that found nothing would have left: no row, and a record that says so."""
    if stage == "01_query_data":
        patch_source(run, lambda table: table.iloc[:0])
        return
    maker, output = input_of(run, stage)
    path = keep_copy(run, maker, output)
    if path.suffix == ".parquet":
        temporary = path.with_name(".emptied")
        pd.read_parquet(path).iloc[:0].to_parquet(temporary)
        temporary.replace(path)
    else:
        write_bytes_atomically(path, b"{}\n")
    entry = {**run.stage_record(maker)["outputs"][output], "sha256": hash_file(path), "rows": 0}
    run.update_stage(maker, outputs={output: entry})


def make_stale(run: Run, stage: str) -> None:
    """Let an input be that of the release before, whole, with its record."""
    if stage == "01_query_data":
        last_seen = run.as_of - pd.Timedelta(days=8)
        patch_source(run, lambda table: table[table["happened_at"] < last_seen])
        return
    other = next(one for one in list_runs(run.pipeline, kind="release") if one.as_of < run.as_of)
    maker, output = input_of(run, stage)
    if not other.succeeded(maker):  # it was never monitored
        maker, output = "09_deploy_shadow", "deployment"
    path = keep_copy(run, maker, output)
    write_bytes_atomically(path, path_of(other, maker, output).read_bytes())
    record = (other.stage_folder(maker) / "stage.json").read_bytes()
    write_bytes_atomically(run.stage_folder(maker) / "stage.json", record)


def patch_source(run: Run, change: Any) -> None:
    """Let the pipeline's own source give other rows."""
    source = importlib.import_module(f"{run.pipeline}.source")
    whole = source.read_table
    source.read_table = lambda start, end: change(whole(start, end)).reset_index(drop=True)


def cut(run: Run, maker: str, output: str, *, keep: bool = True) -> None:
    """Cut an output in half, as a disk or a copy that broke off leaves it."""
    path = keep_copy(run, maker, output) if keep else path_of(run, maker, output)
    content = path.read_bytes()
    write_bytes_atomically(path, content[: len(content) // 2])


def fill(path: Path) -> None:
    """Fill a disk to its last byte."""
    with path.open("wb", buffering=0) as file:
        for size in FILL:
            while True:
                try:
                    if file.write(b"x" * size) < size:
                        break
                except OSError:
                    break


def devour() -> None:
    """Take memory until Linux kills this process; where there is no cgroup to be had, until it is refused any."""
    try:
        CGROUP.mkdir(exist_ok=True)
        (CGROUP / "memory.limit_in_bytes").write_text(str(MEMORY))
        (CGROUP / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    taken = []
    while True:
        taken.append(b"x" * (4 << 20))
