"""The toys of the releases' tests, as a model server finds them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))  # where the writer of logs is

from tests.operations.conftest import toy  # noqa: F401  fixtures
from tests.release.conftest import (  # noqa: F401  fixtures
    _one_thread,
    empty_database,
    fitted,
    make_run,
    pipeline,
    registry,
    settings,
)
