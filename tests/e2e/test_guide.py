"""docs/your-model.md is true: every command on it runs, in order, to an approved release, beside another pipeline."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.e2e.guide import read_blocks, read_guide


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_guide_leads_to_an_approved_release(tmp_path):
    """All blocks in order; at the end the model is in production, and two pipelines were served side by side."""
    with read_guide(tmp_path) as reader:
        for block in read_blocks():
            told = reader.follow(block)
        serve = int(reader.environment["SUNDIAL_SERVE_PORT"])
        health = [httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).json() for port in (serve, serve + 1)]
        address = f"http://127.0.0.1:{serve}/reports/index.html"
        index = httpx.get(address, follow_redirects=True, trust_env=False).text
        status = reader.run("sundial status").stdout

    assert "0 failed" in told
    assert (None, 1) == (health[0].get("version"), int(health[1]["version"]))
    assert "payments-2026-01-05" in index
    assert all(re.search(rf"^{name}$", status, re.MULTILINE) for name in ("payments", "tiny"))
    assert 2 == reader.log.read_text().count("next release")


def test_the_guide_has_what_it_promises():
    """There are commands to follow, and each block is of a kind that the test can do."""
    blocks = read_blocks()

    assert {"sh", "python"} == {block.language for block in blocks}
    assert 12 <= len(blocks)
    commands = [line for block in blocks if block.language == "sh" for line in block.text.splitlines()]
    for word in ("new", "try", "up", "release", "status", "approve", "traffic"):
        assert any(re.match(rf"sundial {word}\b", command) for command in commands), word
