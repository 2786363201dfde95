"""The layers of a study file: the study that it begins with, its own keys, and one of its scales."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from robustlm.assets import config_file
from robustlm.checks.places import what_is
from robustlm.utils.yaml_text import check_yaml

_OPTIONS = ("both", "fit", "test")
"""Keys whose options are added to those of the layer before, and win over them."""
_BY_NAME = ("arms", "sweeps")
"""Keys whose entries are joined by name, as those of `set` are. All other keys replace those of the layer before."""


def study_file(name: str) -> Path:
    """The study file at a path, or the packaged one with this name (`quickstart`).

    Raises:
        ValueError: There is no such file.
    """
    if what_is(name) == "a file":
        return Path(name)
    packaged = config_file(f"studies/{name}")
    if packaged is None or name.startswith("configs/"):
        raise ValueError(f"study: {name}: found {what_is(name)}; expected a YAML file, or the name of a packaged study")
    return packaged


def scales_of(file: Path) -> tuple[str, ...]:
    """The names of a study's scales; empty: it has none. Raises `ValueError` if the file is no study."""
    return tuple(_scales(file, _content(file, ())))


def layered(file: Path, scale: str | None) -> dict[str, object]:
    """The keys of a study file, without `like` and `scales`: their content is in the other keys.

    Args:
        file: The file.
        scale: The scale whose keys come last; null: the file must have no scales.

    Raises:
        ValueError: The file cannot be read, or has no such scale.
    """
    content = _content(file, ())
    scales = _scales(file, content)
    if (scale is None and scales) or (scale is not None and scale not in scales):
        found = "none" if scale is None else repr(scale)
        expected = f"--scale with one of {', '.join(scales)}" if scales else "no --scale: this study has no scales"
        raise ValueError(f"study: {file}: scale: found {found}; expected {expected}")
    own = {key: value for key, value in content.items() if key != "scales"}
    return own if scale is None else _over(own, scales[scale], f"study: {file}: scales: {scale}")


def _scales(file: Path, content: Mapping[str, object]) -> dict[str, dict[str, object]]:
    where = f"study: {file}: scales"
    given = _mapping(where, content.get("scales") or {})
    found = {name: _mapping(f"{where}: {name}", own) for name, own in given.items()}
    for name, own in found.items():
        if odd := [key for key in ("like", "scales") if key in own]:
            raise ValueError(f"{where}: {name}: found the key {odd[0]!r}, which only a whole file may have")
    return found


def _content(file: Path, below: tuple[Path, ...]) -> dict[str, object]:
    """The keys of a file over those of the file that its `like` names."""
    own = _mapping(f"study: {file}: the file", _read(file))
    like = own.pop("like", None)
    if like is None:
        return own
    if not isinstance(like, str):
        raise ValueError(f"study: {file}: like: found {like!r}; expected the name or the file of another study")
    beside = file.parent / f"{like}.yaml"
    other = beside if beside.is_file() else study_file(like)
    if other.resolve() in (one.resolve() for one in (*below, file)):
        raise ValueError(f"study: {file}: like: found {like!r}, which begins with this study itself")
    return _over(_content(other, (*below, file)), own, f"study: {file}")


def _over(base: Mapping[str, object], more: Mapping[str, object], where: str) -> dict[str, object]:
    """A layer on top of another one."""
    found = dict(base)
    for key, value in more.items():
        if key in _OPTIONS:
            # null is a value of its own: `fit: null` says that an arm tunes nothing
            found[key] = None if value is None else [*_parts(base.get(key)), *_parts(value)]
        elif key in _BY_NAME:
            found[key] = _joined(base.get(key), value, f"{where}: {key}")
        elif key == "set":
            found[key] = _mapping(f"{where}: set", base.get("set") or {}) | _mapping(f"{where}: set", value or {})
        elif key == "scales":
            before = _mapping(f"{where}: scales", base.get("scales") or {})
            after = _mapping(f"{where}: scales", value or {})
            found[key] = before | {
                name: _entry(f"{where}: scales: {name}", before.get(name), own) for name, own in after.items()
            }
        else:
            found[key] = value
    return found


def _joined(base: object, more: object, where: str) -> dict[str, object]:
    before, after = _mapping(where, base or {}), _mapping(where, more or {})
    return before | {name: _entry(f"{where}: {name}", before.get(name), own or {}) for name, own in after.items()}


def _entry(where: str, base: object, more: object) -> dict[str, object]:
    """An entry of a layer on top of the entry with the same name."""
    return _over(_mapping(where, base or {}), _mapping(where, more), where)


def _parts(value: object) -> list[object]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _mapping(where: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{where}: found {value!r}; expected keys and values")
    return dict(value)


def _read(file: Path) -> object:
    try:
        text = file.read_text(encoding="utf-8")
        check_yaml(text)
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"study: {file}{line}: broken YAML: {getattr(error, 'problem', None) or error}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"study: {file}: cannot be read ({error}); expected YAML in UTF-8") from error
