"""`napari-cad fit`."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from napari_cad.cli._options import (
    Json,
    Sections,
    VoxelSize,
    parse_crop,
    parse_range,
    parse_voxel_size,
)
from napari_cad.cli._segment import _intensity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_cad.core.fit import FitSuggested, ScoredSetting, SettingScored

_GRID = "What to try"
_IN = "Intensity"
_SHOWN = 10


def fit(
    volume: Annotated[
        str, typer.Argument(metavar="VOLUME", help="Anything that napari-cad segment reads.")
    ],
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--checkpoint",
            "-c",
            help="A checkpoint, as for napari-cad segment; give several to choose among them too.",
        ),
    ] = None,
    voxel_size: VoxelSize = None,
    sections: Sections = None,
    crop: Annotated[
        str | None, typer.Option(metavar="Y0:Y1,X0:X1", help="This part of every section only.")
    ] = None,
    adapt: Annotated[
        str, typer.Option(metavar="A,B,…", help="Strengths.", rich_help_panel=_GRID)
    ] = "0,0.5,1",
    smooth: Annotated[
        str, typer.Option(metavar="A,B,…", help="Gaussians, in voxels.", rich_help_panel=_GRID)
    ] = "0,1",
    rescale: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="In-plane factors; by default 1 and the one that leads to the checkpoint's voxel "
            "size.",
            rich_help_panel=_GRID,
        ),
    ] = None,
    polarity: Annotated[
        bool,
        typer.Option(
            "--polarity", help="Also with black and white exchanged.", rich_help_panel=_GRID
        ),
    ] = False,
    crops: Annotated[
        int, typer.Option(min=1, help="Crops to judge by.", rich_help_panel=_GRID)
    ] = 4,
    size: Annotated[
        int, typer.Option(min=64, help="Their side in voxels.", rich_help_panel=_GRID)
    ] = 256,
    intensity: Annotated[
        str | None,
        typer.Option(help="As for napari-cad segment.", rich_help_panel=_IN),
    ] = None,
    limits: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH", help="Values that become black and white.", rich_help_panel=_IN
        ),
    ] = None,
    invert: Annotated[
        bool, typer.Option("--invert", help="Membranes are bright here.", rich_help_panel=_IN)
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:N, mps or cpu.")] = "auto",
    as_json: Json = False,
) -> None:
    """Suggest how to fit a checkpoint to a stack; needs no labels.

    Tries a few settings on small crops. The score of a setting, its agreement, says how alike the
    segmentations of a crop and of the same crop upside down are: 0 to 1, higher is better.
    """
    from napari_cad.core.config import InferenceConfig
    from napari_cad.core.fit import FitGrid, suggest
    from napari_cad.core.readers import open_volume

    checkpoints = checkpoint or ["default"]
    z_range, yx_range = parse_range(sections, "--sections"), parse_crop(crop)
    grid = FitGrid(
        _floats(adapt, "--adapt"),
        _floats(smooth, "--smooth"),
        None if rescale is None else _floats(rescale, "--rescale"),
        both_polarities=polarity,
    )
    mapping = _intensity(intensity, limits)
    opened = open_volume(volume, voxel_size=parse_voxel_size(voxel_size))
    if z_range or yx_range:
        opened = opened.crop(z_range, *(yx_range or (None, None)))
    events = suggest(
        opened,
        checkpoints,
        intensity=mapping,
        invert=invert,
        grid=grid,
        inference=InferenceConfig(device=device),
        n_crops=crops,
        crop_size=size,
    )
    if as_json:
        _follow_json(events)
        return
    ranking = _follow_bar(events).ranking
    typer.echo(_table(ranking))
    part = {"--voxel-size": voxel_size, "--sections": sections, "--crop": crop}
    # what a run would do of itself need not be written
    with_limits = mapping is not None or opened.dtype != "uint8"
    typer.echo(f"\nSuggested:\n  {_command(volume, part, ranking[0], with_limits)}")


def _floats(text: str, option: str) -> tuple[float, ...]:
    """Read numbers separated by commas.

    Raises
    ------
    typer.BadParameter
        If the text is not of that form.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"expected numbers separated by commas, got {text!r}", param_hint=option
        ) from None


def _follow_json(events: Iterable[SettingScored | FitSuggested]) -> None:
    """Write one JSON object per event."""
    from napari_cad.core.fit import SettingScored

    for event in events:
        line: dict[str, object] = {"event": type(event).__name__}
        if isinstance(event, SettingScored):
            line |= {**event.result.to_json(), "done": event.done, "total": event.total}
        else:
            line["ranking"] = [result.to_json() for result in event.ranking]
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def _follow_bar(events: Iterable[SettingScored | FitSuggested]) -> FitSuggested:
    from napari_cad.core.fit import FitSuggested

    columns = (TextColumn("settings"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("settings", total=None)
        for event in events:
            if isinstance(event, FitSuggested):
                return event
            progress.update(task, completed=event.done, total=event.total)
    raise AssertionError("a suggestion ends with its ranking")


def _table(ranking: tuple[ScoredSetting, ...]) -> str:
    names = [result.setting.checkpoint for result in ranking[:_SHOWN]]
    width = max(10, *(len(name) for name in names))
    lines = [f"{'agreement':>9}  {'checkpoint':<{width}}  {'adapt':>5}  smooth  rescale  polarity"]
    for result in ranking[:_SHOWN]:
        setting, values = result.setting, result.setting.fit
        lines.append(
            f"{result.agreement:>9.3f}  {setting.checkpoint:<{width}}  {values.adapt:>5g}  "
            f"{values.smooth:>6g}  {values.rescale:>7g}  "
            f"{'inverted' if setting.intensity.invert else ''}".rstrip()
        )
    if len(ranking) > _SHOWN:
        lines.append(f"… and {len(ranking) - _SHOWN} more, down to {ranking[-1].agreement:.3f}")
    return "\n".join(lines)


def _command(
    volume: str, part: dict[str, str | None], best: ScoredSetting, with_limits: bool
) -> str:
    """Write the command that segments the same part of a volume with a setting."""
    setting = best.setting
    words = ["napari-cad", "segment", volume, "--checkpoint", setting.checkpoint]
    for option, text in part.items():
        words += [] if text is None else [option, text]
    for option, value, off in (
        ("--adapt", setting.fit.adapt, 0),
        ("--smooth", setting.fit.smooth, 0),
        ("--rescale", setting.fit.rescale, 1),
    ):
        if value != off:
            words += [option, f"{value:g}"]
    low, high = setting.intensity.low, setting.intensity.high
    if with_limits or (low, high) != (0, 255):
        words += ["--limits", f"{low!r},{high!r}"]
    if setting.intensity.invert:
        words.append("--invert")
    return shlex.join(words)
