"""Forms from config dataclasses: labels, ranges, units and tooltips from the field metadata."""

from __future__ import annotations

import dataclasses
import math
import types
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QLineEdit,
    QSizePolicy,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: What stands in a field whose value is None.
AUTOMATIC = "automatic"

_HIGHEST = 1_000_000


class ConfigForm(QWidget):
    """Rows for the fields of a config dataclass.

    Parameters
    ----------
    config_type : type
        A dataclass; field metadata may hold help, unit, min, max and choices.
    names : sequence of str
        Which fields to show, in this order.
    choices : mapping, optional
        Field name → {value: tooltip}, for fields whose choices are known elsewhere.
    """

    def __init__(
        self,
        config_type: type[Any],
        names: Sequence[str],
        choices: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__()
        layout = form_layout(self)
        hints = get_type_hints(config_type)
        fields = {field.name: field for field in dataclasses.fields(config_type)}
        self._fields: dict[str, QWidget] = {}
        for name in names:
            field = fields[name]
            widget = _field_widget(hints[name], field.metadata, (choices or {}).get(name))
            widget.setToolTip(tooltip(field.metadata.get("help", "")))
            self._fields[name] = widget
            if field.default is not dataclasses.MISSING:
                _set(widget, field.default)
            layout.addRow(label_of(name), widget)

    def field(self, name: str) -> QWidget:
        """Give the widget of a field."""
        return self._fields[name]

    def values(self) -> dict[str, Any]:
        """Give the values of the fields that are shown; None where a field is automatic."""
        return {name: _get(widget) for name, widget in self._fields.items()}

    def set_values(self, **values: Any) -> None:
        """Set fields by name."""
        for name, value in values.items():
            _set(self._fields[name], value)


class Collapsible(QWidget):
    """A heading with an arrow that shows and hides what is below it.

    Parameters
    ----------
    title : str
        The heading.
    content : QWidget
        Hidden at first.
    """

    def __init__(self, title: str, content: QWidget) -> None:
        super().__init__()
        self.button = QToolButton()
        self.button.setText(title)
        self.button.setToolTip(f"Show or hide: {title}")
        self.button.setCheckable(True)
        self.button.setAutoRaise(True)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.button.setArrowType(Qt.ArrowType.RightArrow)
        self._content = content
        content.setVisible(False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.button)
        layout.addWidget(content)
        self.button.toggled.connect(self.expand)

    def expand(self, shown: bool = True) -> None:
        """Show or hide the content."""
        self.button.setChecked(shown)
        self.button.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self._content.setVisible(shown)


def form_layout(parent: QWidget) -> QFormLayout:
    """Make the form layout that all our forms have."""
    layout = QFormLayout(parent)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    layout.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
    return layout


def label_of(name: str) -> str:
    """Write a field name for people."""
    return name.replace("_", " ").capitalize()


def tooltip(text: str) -> str:
    """Make a tooltip that wraps its lines."""
    return f"<span>{text}</span>" if text else ""


def _field_widget(
    hint: Any, metadata: Mapping[str, Any], choices: Mapping[str, str] | None
) -> QWidget:
    """Make the widget for a type, with the limits that its metadata name."""
    kind, optional = _without_none(hint)
    if choices is None and metadata.get("choices") is not None:
        choices = dict.fromkeys(metadata["choices"], "")
    if choices is not None:
        combo = QComboBox()
        # a long name must not make the dock wider
        combo.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        for value, about in choices.items():
            combo.addItem(value, value)
            combo.setItemData(combo.count() - 1, tooltip(about), Qt.ItemDataRole.ToolTipRole)
        return combo
    if kind is bool:
        return QCheckBox()
    if kind is int:
        spin = QSpinBox()
        lowest = int(metadata.get("min", 0))
        spin.setRange(lowest - optional, int(metadata.get("max", _HIGHEST)))
        _prepare_spin(spin, metadata, optional)
        return spin
    if kind is float:
        box = QDoubleSpinBox()
        low, high = float(metadata.get("min", 0)), float(metadata.get("max", _HIGHEST))
        step = float(metadata.get("step", 0.05 if high <= 1 else 1.0))
        # a digit more than a step has: what is set must not be rounded to something else
        box.setDecimals(max(3, 1 - math.floor(math.log10(step))))
        box.setSingleStep(step)
        box.setRange(low - optional * box.singleStep(), high)
        _prepare_spin(box, metadata, optional)
        return box
    return QLineEdit()


def _prepare_spin(
    spin: QSpinBox | QDoubleSpinBox, metadata: Mapping[str, Any], optional: bool
) -> None:
    spin.setProperty("optional", optional)
    if optional:
        spin.setSpecialValueText(AUTOMATIC)
    if metadata.get("unit"):
        spin.setSuffix(f" {metadata['unit']}")


def _without_none(hint: Any) -> tuple[Any, bool]:
    """`int | None` → (int, True)."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return kinds[0], len(kinds) < len(get_args(hint))
    return hint, False


def _get(widget: QWidget) -> Any:
    if isinstance(widget, QComboBox):
        return widget.currentData()
    if isinstance(widget, QCheckBox):
        return widget.isChecked()
    if isinstance(widget, (QSpinBox, QDoubleSpinBox)):
        automatic = widget.property("optional") and widget.value() == widget.minimum()
        return None if automatic else widget.value()
    if isinstance(widget, QLineEdit):
        return widget.text()
    raise TypeError(f"no value in a {type(widget).__name__}")


def _set(widget: QWidget, value: Any) -> None:
    if isinstance(widget, QComboBox):
        index = widget.findData(value)
        if index < 0:  # cuda:1, say
            widget.addItem(str(value), value)
            index = widget.count() - 1
        widget.setCurrentIndex(index)
    elif isinstance(widget, QCheckBox):
        widget.setChecked(value)
    elif isinstance(widget, QSpinBox):
        widget.setValue(widget.minimum() if value is None else int(value))
    elif isinstance(widget, QDoubleSpinBox):
        widget.setValue(widget.minimum() if value is None else float(value))
    elif isinstance(widget, QLineEdit):
        widget.setText(str(value))
