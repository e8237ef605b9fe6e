"""Sundial takes a model from a notebook to production every week."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sundial.stage import Stage, open_stage

__all__ = ["Stage", "open_stage"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # pandas takes a second to import, and 'sundial --help' does not need it
    if name in __all__:
        from sundial import stage

        return getattr(stage, name)
    raise AttributeError(f"module 'sundial' has no attribute {name!r}")
