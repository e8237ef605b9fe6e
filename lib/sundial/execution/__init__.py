"""Execution: notebooks run strictly, each in a kernel of its own, and rendered as pages.

parameters ← engine, kernels, client ← notebooks ← runner → report
"""

from __future__ import annotations
