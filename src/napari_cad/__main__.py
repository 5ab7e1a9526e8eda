"""Let ``python -m napari_cad`` do what the command ``napari-cad`` does."""

from __future__ import annotations

from napari_cad.cli import main

if __name__ == "__main__":
    main()
