"""Write the reference of the settings of a training into docs/training.md, from the code.

python scripts/settings_reference.py [--check]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cad.training.config import TrainingConfig
from napari_cad.training.data_config import VolumeConfig

if TYPE_CHECKING:
    from napari_cad.training.settings import Settings

PAGE = Path(__file__).parents[1] / "docs" / "training.md"
BEGIN, END = "<!-- settings: made by scripts/settings_reference.py -->", "<!-- end of settings -->"


def reference() -> str:
    """Write one table per table of the file."""
    parts: list[tuple[str, Any]] = [("At the top", TrainingConfig)]
    for field in dataclasses.fields(TrainingConfig):
        part = field.metadata.get("parts")
        if part is not None:
            parts.append((f"`[{field.name}]`", part))
            if field.name == "data":
                parts.append(("`[[data.volumes]]` and `[[data.validation]]`", VolumeConfig))
    return "\n\n".join(f"### {title}\n\n{_table(part)}" for title, part in parts)


def _table(part: type[Settings]) -> str:
    lines = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for field in dataclasses.fields(part):
        text = field.metadata.get("help")
        if text is None:
            continue  # tables of their own
        unit = field.metadata.get("unit")
        unit = f" In {unit}." if unit not in (None, "steps") else ""
        choices = field.metadata.get("choices")
        one_of = f" One of {', '.join(choices)}." if choices else ""
        lines.append(f"| `{field.name}` | {_default(field)} | {text}{unit}{one_of} |")
    return "\n".join(lines)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "by the image's type"
    if field.default is dataclasses.MISSING:
        return "must be given"
    if field.default is None:
        return "none"
    if field.default == ():
        return "none"
    return f"`{json.dumps(field.default)}`"


def page_with(text: str, page: str) -> str:
    """Put the reference between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def main() -> None:
    """Write the page, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    wanted = page_with(reference(), page)
    if options.check:
        sys.exit(0 if page == wanted else f"{PAGE.name} is out of date: run this script")
    PAGE.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
