"""python -m flows.notify TITLE: sends what is on standard input through the notification block of the settings."""

from __future__ import annotations

import sys

from prefect.blocks.abstract import NotificationBlock

from sundial.settings import load_settings


def main(subject: str) -> None:
    """Send standard input."""
    block = NotificationBlock.load(load_settings().notification_block)
    block.notify(sys.stdin.read(), subject=subject)


if __name__ == "__main__":
    main(sys.argv[1])
