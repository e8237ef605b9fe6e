"""Python source as a tree, from any thread.

CPython 3.11 counts how deep a tree is in one place for all threads, and a thread that the collector of garbage lets in
between two nodes spoils the count of the other: ``SystemError: AST constructor recursion depth mismatch``. Pages are
rendered and keys are made in threads, so one at a time.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable
from typing import TypeVar

ATTEMPTS = 5
Tree = TypeVar("Tree", ast.Module, ast.expr)
_one_at_a_time = threading.Lock()


def parse_python(source: str) -> ast.Module:
    """Parse statements.

    Parameters
    ----------
    source : str
        Python.

    Returns
    -------
    ast.Module

    Raises
    ------
    SyntaxError
        When it is not Python.
    """
    return _alone(lambda: ast.parse(source))


def parse_expression(source: str) -> ast.expr:
    """Parse one expression.

    Parameters
    ----------
    source : str
        Python.

    Returns
    -------
    ast.expr

    Raises
    ------
    SyntaxError
        When it is no expression.
    """
    return _alone(lambda: ast.parse(source, mode="eval").body)


def _alone(parse: Callable[[], Tree]) -> Tree:
    with _one_at_a_time:
        for _ in range(ATTEMPTS - 1):
            try:
                return parse()
            except SystemError:  # a thread of somebody else's library parses too; the next count begins anew
                continue
        return parse()
