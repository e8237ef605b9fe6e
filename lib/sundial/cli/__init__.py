"""The command line: a command for each thing a person does, each a thin call of one function."""

from __future__ import annotations

import sys

import typer

from sundial.cli import (  # noqa: F401  they register
    decisions,
    experiments,
    pipelines,
    recovery,
    replay,
    runs,
    shadows,
    system,
)
from sundial.cli.application import app
from sundial.errors import SundialError

__all__ = ["app", "main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Those of the process by default.

    Returns
    -------
    int
        0 when done, 1 for an error of ours (its sentence is on standard error), 2 for wrong usage, 130 for Ctrl-C.
    """
    try:
        code = app(arguments, standalone_mode=False)  # what ended it, where that is no error: 130 for Ctrl-C
    except SundialError as error:
        print(f"sundial: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except typer.Exit as error:
        return error.exit_code
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's errors of usage
            print(f"sundial: {error.format_message()}\nTry 'sundial --help'.", file=sys.stderr)
            return int(error.exit_code)
        raise
    if code == 130:
        print("sundial: interrupted; everything it started has been ended", file=sys.stderr)
    return code if isinstance(code, int) else 0
