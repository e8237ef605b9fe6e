"""Python is parsed by several threads at once."""

from __future__ import annotations

import ast
import gc
import threading
import time
from pathlib import Path

import pytest

from sundial.syntax import parse_expression, parse_python

SOURCE = Path(ast.__file__).read_text()


def test_threads_do_not_spoil_each_others_trees():
    """Threads at different depths, let in by the collector between two nodes, all get their tree."""
    trees, errors = [], []

    def parse_at(depth: int) -> None:
        if depth:
            return parse_at(depth - 1)
        try:
            trees.extend(len(parse_python(SOURCE).body) for _ in range(8))
        except SystemError as error:
            errors.append(error)

    def let_others_in(phase: str, info: dict[str, int]) -> None:
        time.sleep(0.0002)

    threads = [threading.Thread(target=parse_at, args=(depth,)) for depth in (0, 30, 60)]
    gc.callbacks.append(let_others_in)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.callbacks.remove(let_others_in)

    assert [] == errors
    assert [len(ast.parse(SOURCE).body)] * 24 == trees


def test_what_is_no_python_is_refused():
    """Statements are no expression, and a mistake is one in either."""
    assert isinstance(parse_expression("1 + 1"), ast.BinOp)
    for parse, words in ((parse_expression, "x = 1"), (parse_expression, "1 +"), (parse_python, "x =")):
        with pytest.raises(SyntaxError):
            parse(words)
