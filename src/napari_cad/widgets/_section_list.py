"""Sections as a person writes them: “0-3, 7”."""

from __future__ import annotations

import re

from napari_cad.core.errors import ConfigError


def parse_sections(text: str) -> tuple[int, ...] | None:
    """Read a list of sections.

    Parameters
    ----------
    text : str
        Numbers and ranges, both ends included, separated by commas.

    Returns
    -------
    tuple of int or None
        In order, each once; None where nothing is written.

    Raises
    ------
    ConfigError
        If it is written in another way, or a range runs backwards.
    """
    found: set[int] = set()
    for part in re.split(r"[,;\s]+", re.sub(r"\s*[-–]\s*", "-", text.strip())):
        if not part:
            continue
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None:
            raise ConfigError(f"Sections are written such as 0-3, 7, got “{part}”.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ConfigError(f"The last section, {last}, lies before the first, {first}.")
        found.update(range(first, last + 1))
    return tuple(sorted(found)) or None
