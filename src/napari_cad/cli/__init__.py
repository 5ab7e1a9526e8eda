"""The command line: `napari-cad` and `python -m napari_cad`.

Nothing heavy is imported before a command needs it, so `--help` is quick.
"""

from __future__ import annotations

import sys

from napari_cad.cli._app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and exit.

    Exit codes: 0 done, 1 an error that was explained, 2 wrong usage, 130 stopped by Ctrl-C.
    """
    from napari_cad.cli._errors import explained

    with explained():
        app()
    sys.exit(0)
