"""Recognise the shape of a row by its keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustlm.checks.texts import shortened
from robustlm.rows.base import RowData
from robustlm.sources.shapes import Shape, is_registered


def shape_of(
    data: RowData, shapes: Mapping[str, Shape], format: str | None, task: str | None, *, answered: bool
) -> tuple[Shape, RowData | None]:
    """A row's shape and, for a row without an answer, the row with a filler answer added.

    Raises:
        ValueError: The row matches no known shape or several, or it has no answer.
    """
    fillable = {name: filled for name, shape in shapes.items() if (filled := shape.filled(data)) is not None}
    if format:
        return shapes[format], None if answered else fillable.get(format)
    if any(shape.recognises(data) and name not in fillable for name, shape in shapes.items()):
        return _recognised(data, {name: shape for name, shape in shapes.items() if name not in fillable}, task), None
    # a row with its own instruction does not count as a row of a task, unless `task` says so
    own = [name for name in fillable if is_registered(name) and task not in fillable] or list(fillable)
    if answered or not own:
        if own and not any(shape.recognises(data) for shape in shapes.values()):
            found = f"found keys {shortened(', '.join(map(str, data)), 300)}"
            expected = "; or ".join(f"{name} ({shapes[name].keys})" for name in own)
            text = ". Running text, a row with `text` alone, is for TextDataModule and data.replay"
            raise ValueError(
                f"no answer: {found}; expected those of {expected}. Only `robustlm predict` takes rows without "
                "answers, and data.train does with data.unlabelled, if they have options"
                f"{text if set(data) <= {'id', 'text'} else ''}"
            )
        return _recognised(data, shapes, task), None
    shape = _recognised(data, {name: shapes[name] for name in own}, task, among=own)
    return shape, fillable[shape.name]


def _recognised(data: RowData, shapes: Mapping[str, Shape], task: str | None, among: Sequence[str] = ()) -> Shape:
    fitting = [shape for shape in shapes.values() if shape.name in among or shape.recognises(data)]
    # a row may contain answers of several tasks; `task` then decides
    fitting = [shape for shape in fitting if shape.name == task] or fitting
    if len(fitting) == 1:
        return fitting[0]
    keys = shortened(", ".join(map(str, data)), 300) or "none"
    if fitting:
        names = " and ".join(shape.name for shape in fitting)
        raise ValueError(f"ambiguous keys: found {keys}, which fit {names}; name the shape with format=…")
    known = "; ".join(f"{shape.name} ({shape.keys})" for shape in shapes.values())
    raise ValueError(f"unknown keys: found {keys}; expected those of one of these shapes: {known}")
