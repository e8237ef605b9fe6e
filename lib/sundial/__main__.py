"""``python -m sundial`` is the command line."""

from __future__ import annotations

import sys

from sundial.cli import main

if __name__ == "__main__":
    sys.exit(main())
