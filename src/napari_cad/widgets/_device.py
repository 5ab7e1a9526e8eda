"""Choosing where the network runs."""

from __future__ import annotations

from napari_cad.core.config import DEVICES, InferenceConfig
from napari_cad.viewer.preferences import preferences
from napari_cad.widgets._form import ConfigForm


def device_form() -> ConfigForm:
    """Make the row for the device, with what the person prefers."""
    form = ConfigForm(InferenceConfig, ("device",), {"device": dict.fromkeys(DEVICES, "")})
    form.set_values(device=preferences().device)
    return form
