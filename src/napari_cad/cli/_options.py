"""Options that several commands share, and how their text becomes values."""

from __future__ import annotations

import math
import re
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Write JSON for machines, nothing else.")]

# text, since a path would make one slash of the two in a URL
Run = Annotated[str, typer.Argument(metavar="RUN.zarr", help="A finished store, a path or a URL.")]

Sections = Annotated[
    str | None,
    typer.Option(metavar="A:B", help="Sections A to B − 1 only; either may be left out."),
]

VoxelSize = Annotated[
    str | None,
    typer.Option(
        metavar="Z,Y,X", help="Voxel size in nm, where the file does not say it or is wrong."
    ),
]


def _number(value: float | None) -> float | None:
    """Refuse NaN, which no range excludes."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("expected a number, got nan")
    return value


Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        "-t",
        min=0,
        max=1,
        callback=_number,
        help="By default the one that the run was made with.",
    ),
]


def parse_range(text: str | None, option: str) -> tuple[int | None, int | None] | None:
    """Read A:B as a half-open range.

    Raises
    ------
    typer.BadParameter
        If the text is not of that form.
    """
    if text is None:
        return None
    if not re.fullmatch(r"\d*:\d*", text):
        raise typer.BadParameter(
            f"expected START:STOP such as 80:100, got {text!r}", param_hint=option
        )
    start, _, stop = text.partition(":")
    return int(start) if start else None, int(stop) if stop else None


def parse_crop(
    text: str | None,
) -> tuple[tuple[int | None, int | None], tuple[int | None, int | None]] | None:
    """Read Y0:Y1,X0:X1.

    Raises
    ------
    typer.BadParameter
        If the text is not of that form.
    """
    if text is None:
        return None
    parts = text.split(",")
    ranges = [parse_range(part, "--crop") for part in parts]
    if len(ranges) != 2 or ranges[0] is None or ranges[1] is None:
        raise typer.BadParameter(
            f"expected Y0:Y1,X0:X1 such as 0:512,0:512, got {text!r}", param_hint="--crop"
        )
    return ranges[0], ranges[1]


def parse_numbers(text: str | None, n: int, option: str) -> tuple[float, ...] | None:
    """Read N numbers separated by commas.

    Raises
    ------
    typer.BadParameter
        If there are not that many.
    """
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != n:
        raise typer.BadParameter(
            f"expected {n} numbers separated by commas, got {text!r}", param_hint=option
        )
    return numbers


def parse_voxel_size(text: str | None) -> tuple[float, float, float] | None:
    """Read a voxel size Z,Y,X in nm."""
    numbers = parse_numbers(text, 3, "--voxel-size")
    return None if numbers is None else (numbers[0], numbers[1], numbers[2])
