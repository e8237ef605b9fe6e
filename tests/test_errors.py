"""Errors: one tree, a hint on its own line, and the nearest name."""

from __future__ import annotations

import inspect
import re

import pytest

from sundial import errors
from sundial.errors import (
    PredictionLogError,
    RequestError,
    StageFailedError,
    StageTimeoutError,
    SundialError,
    nearest,
)

CLASSES = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, Exception)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_is_a_sundial_error(kind):
    """Whoever catches SundialError catches all errors raised on purpose, and reads message and hint."""
    error = kind("the disk is full", hint="make room")

    assert isinstance(error, SundialError)
    assert str(error) == "the disk is full\nHint: make room"
    assert str(kind("alone")) == "alone"


def test_the_tree_in_the_docstring_is_the_tree():
    """The drawing at the top of the module names every class, with its parent and its builtin."""
    drawn, above = {}, {}
    for line in errors.__doc__.splitlines():
        match = re.match(r"([│├└─\s]*)([A-Z]\w+Error)\b(?:\s+([A-Z]\w*Error)\b)?", line)
        if match:
            depth = len(match[1]) // 4
            above[depth] = match[2]
            drawn[match[2]] = (above.get(depth - 1), match[3])

    assert set(drawn) == {kind.__name__ for kind in CLASSES}
    for name, (parent, builtin) in drawn.items():
        bases = {base.__name__ for base in getattr(errors, name).__bases__}
        assert bases == {item for item in (parent or "Exception", builtin) if item}


def test_a_failed_stage_keeps_its_evidence():
    """Stage, cell, source, cause and report are attributes, not only words in a message."""
    error = StageTimeoutError("too slow", stage="06_train_model", cell=4, source="fit()", cause="", report="r.html")

    assert isinstance(error, StageFailedError | TimeoutError)
    assert (error.stage, error.cell, error.source, error.report) == ("06_train_model", 4, "fit()", "r.html")


def test_a_request_error_has_a_status_and_a_column():
    """A caller's mistake is a 400 unless it says otherwise, and names the column to blame."""
    assert RequestError("no rows").status == 400
    error = RequestError("'distance' is text", status=422, column="distance")

    assert (error.status, error.column) == (422, "distance")


def test_an_os_error_of_ours_prints_our_message():
    """OSError would print its own arguments; ours says message and hint."""
    assert str(PredictionLogError("disk full", hint="make room")) == "disk full\nHint: make room"


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("max_itr", ["max_iter", "seed"], "Did you mean 'max_iter'?"),
        ("zzz", ["max_iter", "seed"], "Known: max_iter, seed."),
        ("zzz", [], ""),
    ],
)
def test_nearest_suggests_a_name(name, known, expected):
    """A near name is suggested; without one all are listed; with none to list nothing is said."""
    assert expected == nearest(name, iter(known))
