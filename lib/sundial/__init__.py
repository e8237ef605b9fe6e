"""Sundial takes a model from a notebook to production every week."""

from __future__ import annotations

from sundial.stage import Stage, open_stage

__all__ = ["Stage", "open_stage"]
__version__ = "0.1.0"
