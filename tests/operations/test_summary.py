"""What the terminal shows of the weeks."""

from __future__ import annotations

import io

from rich.console import Console

from sundial.operations.summary import print_board


def cell(status: str = "", text: str = "", title: str = "") -> dict[str, object]:
    """Make a cell as the status has it."""
    return {"status": status, "text": text, "seconds": 0.0, "title": title, "href": ""}


def shown(weeks: list[dict[str, object]]) -> str:
    """Print a board of two rows into a text."""
    console = Console(file=io.StringIO(), width=100)
    found = {"board": {"rows": ["06_train_model", "APPROVE"], "weeks": weeks, "facts": {"Lead time": "7 days"}}}
    print_board(found, console)
    return console.file.getvalue()


def test_each_week_is_a_column_and_the_failure_is_named():
    """A failed stage, a question and a week that nobody started are words, not only colours."""
    weeks = [
        {
            "date": "2013-09-30",
            "first_failure": "06_train_model",
            "cells": {"06_train_model": cell("failed", "3.1", "cell 4: KeyError"), "APPROVE": cell()},
        },
        {
            "date": "2013-10-07",
            "first_failure": "",
            "cells": {"06_train_model": cell("succeeded", "2.9"), "APPROVE": cell("waiting", "waits")},
        },
        {
            "date": "2013-10-14",
            "first_failure": "",
            "cells": dict.fromkeys(("06_train_model", "APPROVE"), cell("missing")),
        },
    ]
    text = shown(weeks)

    for expected in ("FAILED 3.1", "2.9", "WAITS", "none", "2013-09-30: cell 4: KeyError", "lead time 7 days"):
        assert expected in text


def test_without_a_release_there_is_no_board():
    """Nothing is printed, rather than an empty table."""
    assert "" == shown([])
