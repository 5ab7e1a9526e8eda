"""Where work is kept that has no better place."""

from __future__ import annotations

from pathlib import Path

import platformdirs


def work_folder() -> Path:
    """Give the folder for runs, trainings and sessions of layers that come from no file.

    Not a cache, which people and systems clear: hand-made edits lie there.

    Returns
    -------
    Path
        The same for everything that this person works on; it need not exist.
    """
    return Path(platformdirs.user_data_path("napari-cad", appauthor=False))
