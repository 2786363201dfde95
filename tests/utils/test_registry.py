"""Names that configs use: registered, made by a family, or import paths."""

from __future__ import annotations

import pytest

from robustlm.utils.registry import Registry


def registry() -> Registry[object]:
    found: Registry[object] = Registry("colour", "an import path", reserved=("none",))
    found.add("red", 1)

    def shade(argument: str) -> object:
        if argument == "no":
            raise ValueError("found no such shade")
        return f"shade {argument}"

    found.add_family("blue", shade)
    return found


def test_a_thing_is_found_by_name_family_or_path() -> None:
    colours = registry()
    assert colours.found("red") == 1
    assert (colours.found("blue:dark"), colours.found("blue")) == ("shade dark", "shade ")
    assert colours.found("robustlm.utils.registry.Registry") is Registry
    assert colours.found("robustlm.utils.registry.nothing") is None
    assert colours.found("green") is None


def test_wrong_names_are_refused() -> None:
    colours = registry()
    for taken in ("red", "none"):
        with pytest.raises(
            ValueError, match=f"found a second colour named '{taken}', which exists already; expected another name"
        ):
            colours.add(taken, 2)
    with pytest.raises(ValueError, match="found a second family of colours named 'blue'"):
        colours.add_family("blue", str)
    with pytest.raises(ValueError, match=r"^colour blue: found no such shade$"):
        colours.found("blue:no")
    with pytest.raises(ValueError, match=r"^colour nowhere.x: cannot import 'nowhere'"):
        colours.found("nowhere.x")
    assert colours.expected("rad") == "one of red, blue, or an import path (did you mean red?)"
    assert colours.expected("x", ["y"]) == "one of y, red, blue, or an import path"


def test_a_copy_is_a_registry_of_its_own() -> None:
    colours = registry()
    other = colours.copy()
    other.add("green", 3)
    assert "green" not in colours
    assert other.found("blue:dark") == "shade dark"
