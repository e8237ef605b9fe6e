"""Giving way: the scorer is nicer than production, in whatever session it runs."""

from __future__ import annotations

import subprocess
import sys


def test_a_process_gives_way_in_and_beyond_its_session():
    """Its nice value is what was asked, and so is its session's, where the kernel groups processes by session."""
    code = (
        "import os; from pathlib import Path; from sundial.serving.priority import give_way\n"
        "give_way(10); give_way(5)\n"
        "group = Path('/proc/self/autogroup')\n"
        "print(os.nice(0), group.read_text().split()[-1] if group.exists() else 10)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, start_new_session=True
    )
    nice, of_session = map(int, done.stdout.split())

    assert 10 == nice, "a process that is nicer already stays so"
    assert 10 == of_session
