"""Turn arguments into plain data, which checkpoints store and from which objects are rebuilt."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path


def to_plain(value: object) -> object:
    """Turn an argument into strings, numbers, lists and dicts.

    A dataclass with a base class (a strategy) becomes `{"class_path": …, "init_args": {…}}`, as in YAML. A dataclass
    without one becomes a dict of its fields.

    Raises:
        TypeError: The value has a type that YAML cannot express.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        values = {item.name: to_plain(getattr(value, item.name)) for item in fields(value) if item.init}
        cls = type(value)
        if cls.__bases__ == (object,):
            return values
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": values}
    raise TypeError(
        f"{type(value).__name__} is not a plain argument; expected text, numbers, lists, dicts or a dataclass of them"
    )
