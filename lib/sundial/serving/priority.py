"""Letting production come first: others run when the model server does not want to."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def give_way(niceness: int) -> None:
    """Lower the priority of this process, against those of other sessions too.

    Linux distributions switch autogroups on: a nice value then counts among the processes of one session only, and
    every server has a session of its own. Where that is so, the session's own nice value is lowered as well (sched(7),
    "The autogroup feature").

    Parameters
    ----------
    niceness : int
        0 is ordinary, 19 the least. A process that is nicer already stays so.
    """
    present = os.nice(max(niceness - os.nice(0), 0))
    with suppress(OSError):  # another system, a kernel without it, or asked too often
        Path("/proc/self/autogroup").write_text(f"{present}\n", encoding="ascii")
