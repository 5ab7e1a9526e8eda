"""The keys of a proofreading session: bound while it lasts, then as they were; remappable.

napari's own table of shortcuts lists actions of its own classes only, and those are bound for
good. Keys of a session are bound on instances and given back, so they have a table of their own,
kept in a file beside napari's settings.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app_model.types import KeyCode
from napari.settings import get_settings
from napari.utils.key_bindings import coerce_keybinding

from napari_cad.core.errors import NapariCadError
from napari_cad.viewer.proofreading_actions import ACTIONS, BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from napari.components import ViewerModel
    from napari.layers import Layer

_FILE = "napari-cad-keys.json"


class KeyChoiceError(NapariCadError, ValueError):
    """A key cannot be given to an action."""


class SessionKeys:
    """Binds the keys of a session, and restores those that were there.

    Parameters
    ----------
    run : callable
        ``run(name)`` is called with the name of the action whose key was pressed.
    keys : dict, optional
        Action → key, as napari writes it; by default those that the person has chosen.
    """

    def __init__(self, run: Callable[[str], None], keys: dict[str, str] | None = None) -> None:
        self._run = run
        self.keys = chosen_keys() if keys is None else keys
        #: what is bound → the key bindings that it had before
        self._bound: list[tuple[Any, dict[Any, Any], dict[Any, Any]]] = []

    def bind(self, target: ViewerModel | Layer, leave: Collection[str] = ()) -> None:
        """Bind all keys on a viewer or a layer.

        Parameters
        ----------
        target : ViewerModel or Layer
            Anything with a keymap.
        leave : collection of str
            Actions whose keys it keeps for itself.
        """
        before: dict[Any, Any] = {}
        ours: dict[Any, Any] = {}
        for name, key in self.keys.items():
            if not key or name in leave:
                continue
            binding = coerce_keybinding(key)
            before[binding] = target.keymap.get(binding)
            ours[binding] = self._function(name)
            target.bind_key(binding, ours[binding], overwrite=True)
        self._bound.append((target, ours, before))

    def unbind(self, target: ViewerModel | Layer | None = None) -> None:
        """Give the keys of one target back, or of all."""
        for entry in [e for e in self._bound if target is None or e[0] is target]:
            bound, ours, before = entry
            for binding, function in ours.items():
                if bound.keymap.get(binding) is not function:
                    continue  # somebody else has bound it meanwhile
                bound.bind_key(binding, before[binding], overwrite=True)
            self._bound.remove(entry)

    def rebind(self, keys: dict[str, str]) -> None:
        """Use other keys from now on, wherever keys are bound."""
        targets = [(target, ours, before) for target, ours, before in self._bound]
        left = [
            [name for name in self.keys if self.keys[name] and not self._has(ours, name)]
            for _, ours, _ in targets
        ]
        self.unbind()
        self.keys = keys
        for (target, _, _), leave in zip(targets, left, strict=True):
            self.bind(target, leave)

    def _has(self, ours: dict[Any, Any], name: str) -> bool:
        return coerce_keybinding(self.keys[name]) in ours

    def _function(self, name: str) -> Callable[[Any], None]:
        def press(_target: Any) -> None:
            self._run(name)

        return press


def default_keys() -> dict[str, str]:
    """Keys to begin with: action → key."""
    return {action.name: action.key for action in ACTIONS}


def chosen_keys() -> dict[str, str]:
    """Keys as the person has chosen them; the default where a file is missing or damaged."""
    keys = default_keys()
    path = _path()
    if path is None:
        return keys
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))
        valid = {
            name: plain_key(key) if key else "" for name, key in chosen.items() if name in BY_NAME
        }
    except (OSError, ValueError, AttributeError):
        return keys
    return keys | valid


def keep_keys(keys: dict[str, str]) -> None:
    """Keep the keys that differ from the default, for all viewers to come.

    Raises
    ------
    OSError
        If they cannot be written.
    """
    path = _path()
    if path is None:
        return
    changed = {name: key for name, key in keys.items() if key != BY_NAME[name].key}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(changed, indent=1), encoding="utf-8")


def changed_keys(keys: dict[str, str], name: str, key: str) -> dict[str, str]:
    """Give an action another key.

    Raises
    ------
    KeyChoiceError
        If there is no such key, or another action has it.
    """
    key = plain_key(key) if key.strip() else ""
    taken = [other for other, k in keys.items() if key and k == key and other != name]
    if taken:
        raise KeyChoiceError(
            f"{key} is the key of “{BY_NAME[taken[0]].title}”: give that another first"
        )
    return keys | {name: key}


def plain_key(key: str) -> str:
    """Write a key as this table does: Control-Shift-Z.

    Raises
    ------
    KeyChoiceError
        If there is no such key.
    """
    order = ("Control", "Alt", "Shift", "Meta")
    names = {"ctrl": "Control", "control": "Control", "cmd": "Meta", "meta": "Meta",
             "alt": "Alt", "shift": "Shift"}  # fmt: skip
    *modifiers, last = [part for part in key.strip().replace("+", "-").split("-") if part] or [""]
    found = {names.get(modifier.strip().lower(), "") for modifier in modifiers}
    last = {"return": "Enter", "esc": "Escape"}.get(last.lower(), last)
    plain = "-".join([*(m for m in order if m in found), last[:1].upper() + last[1:]])
    unknown = KeyChoiceError(f"there is no key {key!r}: write for example G, Shift-D or Control-Z")
    if "" in found or not last or last.lower() in names:
        raise unknown
    try:
        binding = coerce_keybinding(plain)
    except (ValueError, KeyError, TypeError) as error:
        raise unknown from error
    if binding.part0.key in (None, KeyCode.UNKNOWN):
        raise unknown
    return plain


def _path() -> Path | None:
    """Where the keys are kept: beside napari's settings; None where those are not kept either."""
    settings = None
    with contextlib.suppress(AttributeError):
        settings = get_settings().config_path
    return None if settings is None else Path(settings).parent / _FILE
