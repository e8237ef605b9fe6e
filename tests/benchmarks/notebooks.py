"""How long a release of the model that ships takes, as Sundial runs it and as others would: ``make bench-notebooks``.

Each round runs the notebooks 01 to 08, with the parameters of pipeline.yaml, in a fresh process and a fresh run: (a) by
Sundial, in the process of a release, with a worker's kernel server up; (b) by stock papermill; (c) by ``jupyter
nbconvert --execute``; (d) by ploomber-engine, in an environment of its own; (e) as one plain Python script of the same
cells. The rounds of all are interleaved, and medians are compared. Memory is the largest sum of proportional set sizes
(PSS, proc(5)) of all processes of a variant, sampled five times a second, so that what forks share counts once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

import nbformat
import papermill
import psutil
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from sundial.execution.kernels import start_kernel_server
from sundial.execution.runner import finish_rendering, run_stage
from sundial.pipeline import load_pipeline
from sundial.release.registry import Registry
from sundial.release.steps import pass_gates
from sundial.runs import Run, create_run, open_run
from sundial.settings import load_settings
from tests.benchmarks.figures import Figure, write_figures

PIPELINE = "flights"
AS_OF = "2013-10-07"
SAMPLE_SECONDS = 0.2
VARIANTS = {
    "sundial": "(a) Sundial",
    "papermill": "(b) stock papermill",
    "nbconvert": "(c) nbconvert --execute",
    "ploomber": "(d) ploomber-engine",
    "script": "(e) one plain script",
    "drawn": "(e) with what its cells show drawn",
}
# What a notebook's cells show, and a script's do not: of each cell the last expression and the open figures.
SHOW = """
def _show(value=None):
    import io, matplotlib.pyplot as plt
    if value is not None:
        repr(value), getattr(value, "_repr_html_", str)()
    for number in plt.get_fignums():
        plt.figure(number).savefig(io.BytesIO(), format="png", bbox_inches="tight")
        plt.close(number)
"""


def given(run: Run, stage: str) -> dict[str, object]:
    """Give the parameters of a stage."""
    return {"as_of": AS_OF, "run": run.name, **load_pipeline(PIPELINE).stage(stage).parameters}


def prepared(run: Run, stage: str) -> nbformat.NotebookNode:
    """Give a stage's notebook with its parameters in it."""
    source = load_pipeline(PIPELINE).notebook(stage)
    return parameterize_notebook(load_notebook_node(str(source)), given(run, stage), kernel_name="python3")


def run_sundial(run: Run) -> None:
    """Run all stages and judge the gates, as a release does; tell when they were judged."""
    pipeline = load_pipeline(PIPELINE)
    for stage in pipeline.release_stages:
        record = run_stage(run, stage)
        if record["kernel"]["kind"] != "fork":
            raise RuntimeError(f"{stage} did not run in a forked kernel")
    pass_gates(run, pipeline, "release")
    judged = time.time()
    finish_rendering()
    print(json.dumps({"judged": judged}))


def run_papermill(run: Run) -> None:
    """Run all stages by papermill as it comes."""
    pipeline = load_pipeline(PIPELINE)
    with tempfile.TemporaryDirectory() as folder:
        for stage in pipeline.release_stages:
            output = str(Path(folder) / f"{stage}.ipynb")
            papermill.execute_notebook(
                str(pipeline.notebook(stage)), output, parameters=given(run, stage), progress_bar=False
            )


def run_nbconvert(run: Run) -> None:
    """Run all stages by nbconvert's command, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        for stage in load_pipeline(PIPELINE).release_stages:
            path = Path(folder) / f"{stage}.ipynb"
            nbformat.write(prepared(run, stage), path)
            command = ["nbconvert", "--execute", "--to", "notebook", "--inplace", "--log-level=ERROR", str(path)]
            subprocess.run([sys.executable, "-m", "jupyter", *command], check=True)


def run_ploomber(run: Run) -> None:
    """Run all stages by ploomber-engine, which has no process for them; only in its own environment."""
    from ploomber_engine import execute_notebook  # not a dependency of ours

    pipeline = load_pipeline(PIPELINE)
    with tempfile.TemporaryDirectory() as folder:
        for stage in pipeline.release_stages:
            output = str(Path(folder) / f"{stage}.ipynb")
            notebook = str(pipeline.notebook(stage))
            execute_notebook(notebook, output, parameters=given(run, stage), progress_bar=False, log_output=False)


def write_script(run: Run, path: Path, *, drawn: bool) -> Path:
    """Write the cells of all stages as one script."""
    import ast

    parts = [SHOW] if drawn else []
    for stage in load_pipeline(PIPELINE).release_stages:
        for cell in prepared(run, stage).cells:
            if cell.cell_type != "code":
                continue
            tree = ast.parse(cell.source)
            last = tree.body[-1] if tree.body else None
            if drawn and isinstance(last, ast.Expr) and not cell.source.rstrip().endswith(";"):
                tree.body[-1] = ast.Expr(ast.Call(ast.Name("_show", ast.Load()), [last.value], []))
            elif drawn:
                tree.body.append(ast.Expr(ast.Call(ast.Name("_show", ast.Load()), [], [])))
            parts.append(ast.unparse(ast.fix_missing_locations(tree)))
    path.write_text("\n".join(parts))
    return path


RUNNERS: dict[str, Callable[[Run], None]] = {
    "sundial": run_sundial,
    "papermill": run_papermill,
    "nbconvert": run_nbconvert,
    "ploomber": run_ploomber,
}


def sum_pss_mib(root: psutil.Process) -> float:
    """Sum what a process and all that it started hold, in MiB."""
    total = 0
    try:
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for process in family:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def measure(name: str, python: str, folder: Path, server: int) -> dict[str, float]:
    """Run a variant once in a process of its own; give its seconds and its peak of memory.

    A worker's kernel server is up for all releases; its memory counts as Sundial's.
    """
    run = create_run(PIPELINE, AS_OF, started_by="benchmark")
    if name in RUNNERS:
        command = [python, "-m", "tests.benchmarks.notebooks", "--one", name, "--run", run.name]
    else:
        command = [python, str(write_script(run, folder / f"{name}.py", drawn=name == "drawn"))]
    environment = os.environ | ({"MPLBACKEND": "Agg"} if name in ("script", "drawn") else {})
    began = time.time()
    with (folder / f"{name}.log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        watched = [psutil.Process(process.pid), *([psutil.Process(server)] if name == "sundial" else [])]
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, sum(map(sum_pss_mib, watched)))
            time.sleep(SAMPLE_SECONDS)
        whole = time.time() - began
        log.seek(0)
        text = log.read()
    if process.returncode != 0:
        raise RuntimeError(f"{VARIANTS[name]} failed:\n{text[-2000:]}")
    shutil.rmtree(run.folder)
    judged = json.loads(text.strip().splitlines()[-1])["judged"] - began if name == "sundial" else whole
    return {"whole": whole, "seconds": judged, "peak": peak}


def make_ploomber(folder: Path) -> str:
    """Make an environment with ploomber-engine on top of ours, and give its Python; '' when that cannot be had."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        site = next((folder / "lib").glob("python*/site-packages"))
        (site / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n{Path.cwd() / 'lib'}\n")
        words = ["-m", "pip", "install", "--quiet", "-c", "constraints.txt", "ploomber-engine"]
        subprocess.run([str(python), *words], check=False)
    found = subprocess.run([str(python), "-c", "import ploomber_engine"], capture_output=True, text=True)
    if found.returncode != 0:
        print(f"ploomber-engine cannot run here: {found.stderr.strip().splitlines()[-1]}")
        return ""
    return str(python)


def run_rounds(
    rounds: int, pythons: dict[str, str], found: dict[str, list[dict[str, float]]], folder: Path, server: int
) -> None:
    """Run each variant once a round; ploomber-engine is left out from where it fails."""
    for number in range(rounds):
        for name, python in list(pythons.items()):
            try:
                one = measure(name, python, folder, server)
            except RuntimeError as error:
                if name != "ploomber":
                    raise
                print(error)
                del pythons[name], found[name]
                continue
            found[name].append(one)
            line = f"{VARIANTS[name]:<36} {one['seconds']:7.2f} s {one['peak']:7.0f} MiB"
            print(f"round {number + 1}: {line}", flush=True)


def compare(rounds: int, names: list[str]) -> list[Figure]:
    """Run all variants, a few rounds, and give the figures."""
    settings = load_settings()
    Registry(settings).alias(PIPELINE, "production")  # makes the registry, which is nobody's to pay for
    folder = settings.artifacts / "bench" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    pythons = dict.fromkeys(names, sys.executable)
    if "ploomber" in names and not (python := make_ploomber(folder / "ploomber")):
        del pythons["ploomber"]
    elif "ploomber" in names:
        pythons["ploomber"] = python
    found: dict[str, list[dict[str, float]]] = {name: [] for name in pythons}
    with start_kernel_server() as server:  # announced to all processes that are started from here on
        start = server.report()["seconds"]
        run_rounds(rounds, pythons, found, folder, server.pid)

    def median(name: str, key: str) -> float:
        return statistics.median(one[key] for one in found[name])

    figures = []
    for name in found:
        figures.append(Figure(f"{VARIANTS[name]}, 01 to 08", median(name, "seconds"), "s"))
        figures.append(Figure(f"{VARIANTS[name]}, memory", median(name, "peak"), "MiB"))
    if "sundial" in found:
        figures.append(Figure("(a) until all pages are rendered", median("sundial", "whole"), "s"))
        figures.append(Figure("(a) start of the kernel server, once a worker", start, "s"))
    for base in ("script", "drawn"):
        if {"sundial", base} <= set(found):
            ratio = median("sundial", "seconds") / median(base, "seconds")
            memory = median("sundial", "peak") / median(base, "peak")
            asked = base == "script"
            words = "(a) / (e)" + ("" if asked else ", drawn")
            figures.append(Figure(words, ratio, "times", "<= 1.15" if asked else "", ratio <= 1.15 if asked else None))
            figures.append(
                Figure(f"{words}, memory", memory, "times", "<= 1.3" if asked else "", memory <= 1.3 if asked else None)
            )
    return figures


def main() -> None:
    """Measure, or run one variant for who measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=[*VARIANTS], action="append")
    parser.add_argument("--one", choices=[*RUNNERS], help="run one variant here")
    parser.add_argument("--run", default="")
    arguments = parser.parse_args()
    if arguments.one:
        RUNNERS[arguments.one](open_run(arguments.run))
    else:
        write_figures("notebooks", compare(arguments.rounds, arguments.only or [*VARIANTS]))


if __name__ == "__main__":
    main()
