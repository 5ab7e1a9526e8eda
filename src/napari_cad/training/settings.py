"""Settings that hold other settings, and how a setting is declared."""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING
from typing import Any, Self

from napari_cad.core.config import _Config
from napari_cad.core.errors import ConfigError


def setting(default: Any = MISSING, text: str = "", **more: Any) -> Any:
    """Declare a field of a settings class.

    Parameters
    ----------
    default : object
        Without one the setting must be given.
    text : str
        What it does, for a form or a help text.
    **more
        Further metadata: `unit`, `min`, `max`, `step`, `choices`, and `parts`, the class of the
        settings that it holds.
    """
    metadata = {"help": text, **more} if text else more
    if default is MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def is_whole(value: Any, least: int) -> bool:
    """Tell whether a value is a whole number, not below `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class Settings(_Config):
    """Also holds other settings: alone, as tuples of them, or None."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, list):
                object.__setattr__(self, f.name, tuple(value))
            elif "parts" not in f.metadata and isinstance(value, dict):
                raise ConfigError(f"{f.name} is one value, got a table: {value}")
        try:
            super().__post_init__()
        except TypeError as error:
            raise ConfigError(f"{type(self).__name__}: a value is no number ({error})") from error

    def to_json(self) -> dict[str, Any]:
        """Plain values that `json` can write."""
        return {
            f.name: _plain(getattr(self, f.name))
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make settings from what `to_json` gave, or from a part of it.

        Raises
        ------
        ConfigError
            If a key is unknown or a value not allowed.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{cls.__name__}: expected a table of settings, got {values!r}")
        made = dict(values)
        for f in dataclasses.fields(cls):  # type: ignore[arg-type]
            part = f.metadata.get("parts")
            value = made.get(f.name)
            if part is None or value is None:
                continue
            if isinstance(f.default, tuple) and isinstance(value, dict):
                raise ConfigError(
                    f"{f.name} is a list of tables, got one table: write two brackets around the "
                    f"name, such as [[data.{f.name}]]"
                )
            if isinstance(value, list | tuple):
                made[f.name] = tuple(part.from_json(one) for one in value)
            else:
                made[f.name] = part.from_json(value)
        try:
            return super().from_json(made)
        except TypeError as error:
            raise ConfigError(f"{cls.__name__}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value.to_json() if hasattr(value, "to_json") else value
