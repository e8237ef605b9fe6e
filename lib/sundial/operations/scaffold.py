"""Makes a pipeline of one's own: eight notebooks, a package, pipeline.yaml and tests that run before a line is changed.

The templates are the files under ``templates/pipeline``, of a pipeline named ``new_model``; a new one is those files
with another name. Whatever must be replaced says so in a line with TODO.
"""

from __future__ import annotations

import importlib.util
import json
import keyword
import re
import shutil
import tempfile
from datetime import date, timedelta
from pathlib import Path

from sundial.errors import PipelineError
from sundial.pipeline import list_pipelines, load_pipeline
from sundial.settings import Settings, load_settings

TEMPLATES = Path(__file__).parents[1] / "templates" / "pipeline"
TEMPLATE_NAME = "new_model"
TEMPLATE_TITLE = "New model title"
TEMPLATE_DATE = "2026-01-05"
LONGEST_NAME = 40
# Folders of the project, and words that mean something else in it.
TAKEN = ("lifecycle", "sundial", "flows", "tests", "lib", "notebooks", "artifacts", TEMPLATE_NAME)


def check_name(name: str, settings: Settings) -> None:
    """Refuse a name that a pipeline cannot have.

    Parameters
    ----------
    name : str
        Folder under ``notebooks/``, package in ``lib/`` and name of the model.
    settings : Settings
        Where the project is.

    Raises
    ------
    PipelineError
        When it cannot be a package's name, is another module's, or stands already; a hint gives one that can be used.
    """
    if not re.fullmatch(rf"[a-z][a-z0-9_]{{0,{LONGEST_NAME - 1}}}", name):
        cleaned = re.sub(r"\W+", "_", name.strip().lower()).strip("_")[:LONGEST_NAME].lstrip("0123456789_")
        raise PipelineError(
            f"{name!r} cannot be the name of a pipeline: it is also a package and a folder",
            hint=f"such as {cleaned or 'my_model'!r}: small letters, digits and _, a letter first, "
            f"{LONGEST_NAME} at most",
        )
    for folder in target_folders(name, settings):
        if folder.exists():
            raise PipelineError(f"{folder} is there already", hint="choose another name; nothing was written")
    if keyword.iskeyword(name) or name in TAKEN or importlib.util.find_spec(name) is not None:
        raise PipelineError(
            f"{name!r} is taken: Python or this project means something else by it", hint=f"such as '{name}_model'"
        )


def target_folders(name: str, settings: Settings) -> dict[Path, str]:
    """List the folders of a pipeline, and the template of each; its notebooks last, since they make it one."""
    return {
        settings.root / "lib" / name: "lib",
        settings.root / "tests" / name: "tests",
        settings.notebooks / name: "notebooks",
    }


def make_pipeline(name: str, *, as_of: date | None = None, settings: Settings | None = None) -> dict[Path, list[str]]:
    """Write a new pipeline, all of it or nothing.

    Parameters
    ----------
    name : str
        Such as ``fraud``.
    as_of : date, optional
        Release date that its notebooks open with; the Monday of this week by default.
    settings : Settings, optional
        Where the project is; read from the environment by default.

    Returns
    -------
    dict of Path to list of str
        The folders that were written, and the names of the files in each.

    Raises
    ------
    PipelineError
        When the name is bad or taken; nothing was written then.
    """
    settings = settings or load_settings()
    check_name(name, settings)
    today = date.today()
    words = {
        TEMPLATE_NAME: name,
        TEMPLATE_TITLE: name.replace("_", " ").capitalize(),
        TEMPLATE_DATE: f"{as_of or today - timedelta(days=today.weekday()):%Y-%m-%d}",
        "serve_port_offset: 1 ": f"serve_port_offset: {_free_offset(settings)} ",
    }
    written: list[Path] = []
    folders = target_folders(name, settings)
    try:
        for folder, template in folders.items():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as temporary:
                for source in sorted((TEMPLATES / template).iterdir()):
                    target = Path(temporary) / "new" / source.name.replace(TEMPLATE_NAME, name).removesuffix(".txt")
                    target.parent.mkdir(exist_ok=True)
                    text = _fill(source.read_text(encoding="utf-8"), words, notebook=source.suffix == ".ipynb")
                    target.write_text(text, encoding="utf-8")
                (Path(temporary) / "new").rename(folder)
            written.append(folder)
        load_pipeline(name, settings)
    except BaseException:
        for folder in written:
            shutil.rmtree(folder)
        raise
    importlib.invalidate_caches()
    return {folder: sorted(path.name for path in folder.iterdir()) for folder in folders}


def _fill(text: str, words: dict[str, str], *, notebook: bool) -> str:
    """Replace the template's words, and put imports in order again, which follows from the name."""
    for word, replacement in words.items():
        text = text.replace(word, replacement)
    if not notebook:
        return _order_imports(text)
    whole = json.loads(text)
    for cell in whole["cells"]:
        cell["source"] = _order_imports("".join(cell["source"])).splitlines(keepends=True)
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _order_imports(text: str) -> str:
    """Sort lines of imports that follow each other by their modules, as ruff wants them."""

    def order(block: re.Match[str]) -> str:
        lines = sorted(block[0].splitlines(), key=lambda line: line.split()[1])
        return "\n".join(lines) + "\n" * block[0].endswith("\n")

    return re.sub(r"(?:^from \S+ import [^()\n]+(?:\n|\Z)){2,}", order, text, flags=re.MULTILINE)


def _free_offset(settings: Settings) -> int:
    """Find the first port, counted from the one of the settings, that no pipeline's model server has."""
    taken = {load_pipeline(name, settings).serve_port_offset for name in list_pipelines(settings)}
    return next(offset for offset in range(len(taken) + 1) if offset not in taken)
