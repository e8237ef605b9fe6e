"""A lock between processes of one machine, held on a file."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold a lock; others who want it wait. It ends with the block, or with the process.

    Parameters
    ----------
    path : Path
        The lock's file; missing folders are made. Not to be taken again inside of the block.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
