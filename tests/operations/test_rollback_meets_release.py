"""A rollback never waits for a release, and a release that meets one goes on: both moves are kept."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sundial.operations.rollback import roll_back
from sundial.release.registry import Registry
from sundial.release.turns import take_turn, whose_turn
from sundial.settings import Settings


def test_a_rollback_goes_through_while_a_release_is_under_way(
    toy: Settings, registry: Registry, register: Callable[[int], int]
):
    """The release holds its turn and moves the shadow; production is the version before, the shadow the new one."""
    first, second = register(1), register(2)
    registry.set_alias("toy", "production", first)
    registry.set_alias("toy", "production", second)
    third = register(3)
    said: list[str] = []
    with take_turn("toy", "this week's release", toy):
        assert whose_turn("toy", toy) is not None
        thread = threading.Thread(target=lambda: said.append(roll_back("toy", "Ada", "alerts doubled", toy)))
        thread.start()
        registry.set_alias("toy", "shadow", third, by="09_deploy_shadow")
        thread.join(60)

    assert [f"toy: version {first} is production again, instead of version {second}"] == said
    assert (first, third) == tuple(registry.alias("toy", name).version for name in ("production", "shadow"))
    moves = [(move.alias, move.version) for move in registry.history("toy", None)]
    assert {("production", first), ("shadow", third)} <= set(moves[-2:])
