"""The parameters of a notebook: read from its one tagged cell, and checked before a kernel starts.

papermill only warns of a parameter that the notebook does not have, and passes on a value of any type; the error then
comes minutes later, or never. Here the cell is parsed, never executed:

    as_of: str = "2013-09-30"     # release date: nothing known later is visible
    max_iter: int = 200           # boosting rounds
    threshold: Optional[float] = None
"""

from __future__ import annotations

import ast
import io
import math
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import nbformat

from sundial.errors import ParameterError, nearest
from sundial.execution.annotations import Annotation, describe, fits, infer_annotation, read_annotation
from sundial.syntax import parse_python

MASK = "********"
TAG = "parameters"
INJECTED_TAG = "injected-parameters"
# The words that make a name secret: anywhere in it, or as its last word.
SECRET_WORDS = frozenset({"secret", "password", "passwd", "passphrase", "credential", "credentials", "apikey"})
SECRET_LAST_WORDS = frozenset({"key", "token", "auth", "pwd"})
# What makes a last word harmless: the key of a table opens no door.
HARMLESS_WORDS = frozenset({"primary", "foreign", "sort", "join", "group", "partition", "row", "index"})
# Shorter values are masked where they are set, not wherever the same letters stand.
SHORTEST_SECRET = 4


@dataclass(frozen=True)
class Parameter:
    """One parameter that a notebook declares.

    Attributes
    ----------
    name : str
        Name of the variable.
    annotation : Annotation
        What values it takes.
    default : any
        Value in the notebook; None when it has none.
    required : bool
        Whether the notebook leaves the value to its caller.
    help : str
        The comment behind the line.
    """

    name: str
    annotation: Annotation
    default: Any
    required: bool
    help: str


def read_notebook(notebook: Path | nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Read a notebook file, upgraded to format 4; a notebook in memory is returned as it is.

    Raises
    ------
    ParameterError
        When there is no such file, or it is not a notebook.
    """
    if not isinstance(notebook, Path):
        return notebook
    try:
        content = nbformat.reads(notebook.read_text(encoding="utf-8"), as_version=4)  # type: ignore[no-untyped-call]
    except FileNotFoundError as error:
        names = [path.name for path in notebook.parent.glob("*.ipynb")]
        raise ParameterError(f"no notebook {notebook}", hint=nearest(notebook.name, names)) from error
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError, KeyError) as error:
        raise ParameterError(f"{notebook} is not a notebook: {error}") from error
    return cast("nbformat.NotebookNode", content)


def read_parameters(notebook: Path | nbformat.NotebookNode) -> dict[str, Parameter]:
    """Read the parameters that a notebook declares.

    Parameters
    ----------
    notebook : Path or NotebookNode
        The notebook.

    Returns
    -------
    dict of str to Parameter
        In the order of the cell.

    Raises
    ------
    ParameterError
        When there is not exactly one code cell tagged ``parameters``, or it holds anything but assignments of
        literals.
    """
    where = str(notebook) if isinstance(notebook, Path) else "the notebook"
    cells = [
        cell
        for cell in read_notebook(notebook).cells
        if TAG in cell.metadata.get("tags", []) and cell.cell_type == "code"
    ]
    if len(cells) != 1:
        raise ParameterError(
            f"{where} has {len(cells) or 'no'} code cell{'s' * (len(cells) != 1)} tagged 'parameters'; it needs one",
            hint="add the tag to the cell with the parameters, in JupyterLab's property inspector",
        )
    source = cells[0].source
    try:
        statements = parse_python(source).body
    except SyntaxError as error:
        raise ParameterError(f"{where}: the parameters cell is not Python: {error}") from error
    comments = _read_comments(source)
    found: dict[str, Parameter] = {}
    for statement in statements:
        parameter = _read_statement(statement, comments.get(statement.end_lineno or 0, ""), where)
        if parameter is None:
            continue
        if parameter.name in found:
            raise ParameterError(f"{where}: parameter {parameter.name!r} is declared twice")
        found[parameter.name] = parameter
    return found


def check_parameters(notebook: Path | nbformat.NotebookNode, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check values against what a notebook declares, without running anything.

    Parameters
    ----------
    notebook : Path or NotebookNode
        The notebook.
    given : mapping of str to any
        The values; what JSON can hold. A whole number is welcome where a float is declared.

    Returns
    -------
    dict of str to any
        The given values, ready to be injected.

    Raises
    ------
    ParameterError
        Naming every unknown, missing or badly typed parameter; its hint gives the nearest name.
    """
    where = notebook.name if isinstance(notebook, Path) else "the notebook"
    declared = read_parameters(notebook)
    problems: list[str] = []
    hints: list[str] = []
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name not in declared:
            problems.append(f"unknown parameter {name!r}")
            hints.append(nearest(name, declared))
            continue
        annotation = declared[name].annotation
        reason = _find_unsafe(value)
        if reason:
            problems.append(f"parameter {name!r} {reason}")
        elif not fits(value, annotation):
            problems.append(f"parameter {name!r} is {describe(annotation)}, not {_show(name, value)}")
        else:
            checked[name] = float(value) if annotation == ("float",) else value
    for name, parameter in declared.items():
        if parameter.required and name not in given:
            problems.append(f"missing parameter {name!r} ({describe(parameter.annotation)})")
    if problems:
        raise ParameterError(f"{where}: {'; '.join(problems)}", hint=" ".join(dict.fromkeys(filter(None, hints))))
    return checked


def looks_secret(name: str) -> bool:
    """Tell whether a parameter's name says that its value is nobody's business.

    Examples
    --------
    >>> looks_secret("api_key"), looks_secret("smtp_password"), looks_secret("primary_key"), looks_secret("max_tokens")
    (True, True, False, False)
    """
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().split("_")
    if SECRET_WORDS.intersection(words):
        return True
    return words[-1] in SECRET_LAST_WORDS and not HARMLESS_WORDS.intersection(words)


def list_secrets(parameters: Mapping[str, Any]) -> list[str]:
    """List how the values of secret parameters can stand in text, longest first."""
    forms: set[str] = set()
    for name, value in parameters.items():
        if looks_secret(name) and value is not None:
            texts = _texts_of(value)
            # as it is, as Python shows it, and as JSON within JSON shows it
            forms |= {
                form for text in texts for form in (text, repr(text)[1:-1], text.encode("unicode_escape").decode())
            }
    return sorted((form for form in forms if len(form) >= SHORTEST_SECRET), key=len, reverse=True)


def mask_text(text: str, secrets: list[str]) -> str:
    """Replace each of the secrets in a text."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def mask_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the values of parameters whose names look secret."""
    return {name: MASK if looks_secret(name) and value is not None else value for name, value in parameters.items()}


def mask_secrets(notebook: nbformat.NotebookNode, parameters: Mapping[str, Any]) -> nbformat.NotebookNode:
    """Mask secret parameters everywhere in a notebook that is to be saved.

    Parameters
    ----------
    notebook : NotebookNode
        An executed notebook; it is not changed.
    parameters : mapping of str to any
        What it was given.

    Returns
    -------
    NotebookNode
        The same notebook when nothing is secret; else a copy in which the injected cell, the metadata, and the
        outputs in which a value shows, hold asterisks instead.
    """
    names = [name for name in parameters if looks_secret(name)]
    if not names:
        return notebook
    secrets = list_secrets(parameters)
    masked: nbformat.NotebookNode = _mask_node(notebook, secrets)
    recorded = masked.metadata.get("papermill", {})
    if "parameters" in recorded:
        recorded["parameters"] = mask_parameters(recorded["parameters"])
    for cell in masked.cells:
        if INJECTED_TAG in cell.metadata.get("tags", []):
            for name in names:
                cell.source = re.sub(rf"(?m)^{re.escape(name)} = .*$", f'{name} = "{MASK}"', cell.source)
    return masked


def _read_statement(statement: ast.stmt, comment: str, where: str) -> Parameter | None:
    """Read one line of the cell; None for a text that stands alone."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return None
    annotated = isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    plain = (
        isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name)
    )
    if not annotated and not plain:
        raise ParameterError(
            f"{where}: line {statement.lineno} of the parameters cell is not an assignment: {ast.unparse(statement)}",
            hint="write one 'name: type = value  # help' a line, and imports in another cell",
        )
    assert isinstance(statement, ast.Assign | ast.AnnAssign)  # noqa: S101  for the type checker
    target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
    assert isinstance(target, ast.Name)  # noqa: S101  for the type checker
    name = target.id
    default = None
    if statement.value is not None:
        try:
            default = ast.literal_eval(statement.value)
        except (ValueError, TypeError, SyntaxError) as error:
            raise ParameterError(
                f"{where}: the default of parameter {name!r} is not a literal: {ast.unparse(statement.value)}",
                hint="a parameter is a number, a text, True, False, None, or a list or dict of them",
            ) from error
    if isinstance(statement, ast.AnnAssign):
        annotation = read_annotation(statement.annotation, f"{where}: parameter {name!r}")
    else:
        annotation = infer_annotation(default)
    unsafe = _find_unsafe(default)
    if unsafe:
        raise ParameterError(f"{where}: the default of parameter {name!r} {unsafe}")
    required = statement.value is None or (default is None and not fits(None, annotation))
    if not required and not fits(default, annotation):
        raise ParameterError(
            f"{where}: parameter {name!r} is {describe(annotation)}, and its default is {_show(name, default)}"
        )
    return Parameter(name, annotation, default, required, comment)


def _read_comments(source: str) -> dict[int, str]:
    """Read the comments of a cell by line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def _find_unsafe(value: Any) -> str:
    """Say what of a value JSON cannot hold; '' when it holds all."""
    if value is None or type(value) in (bool, int, str):
        return ""
    if type(value) is float:
        return "" if math.isfinite(value) else f"is {value}, which JSON cannot hold"
    if type(value) is list:
        return next((reason for item in value if (reason := _find_unsafe(item))), "")
    if type(value) is dict:
        if any(type(key) is not str for key in value):
            return "has a key that is not text"
        return next((reason for item in value.values() if (reason := _find_unsafe(item))), "")
    return f"holds a {type(value).__module__}.{type(value).__name__}, which JSON cannot hold".replace("builtins.", "")


def _show(name: str, value: Any) -> str:
    """Show a value and its type in an error."""
    text = MASK if looks_secret(name) else repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _texts_of(value: Any) -> list[str]:
    """List the texts and numbers inside a value."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts_of(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts_of(item)]
    return [] if isinstance(value, bool) or value is None else [str(value)]


def _mask_node(node: Any, secrets: list[str]) -> Any:
    """Copy a notebook's nodes with the secrets replaced in every text."""
    if isinstance(node, str):
        return mask_text(node, secrets)
    if isinstance(node, dict):
        return type(node)({mask_text(key, secrets): _mask_node(item, secrets) for key, item in node.items()})
    if isinstance(node, list):
        return [_mask_node(item, secrets) for item in node]
    return node
