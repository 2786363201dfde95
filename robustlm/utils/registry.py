"""Look up things that configs name: by a registered name, by a family and its argument, or by import path."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from typing import Self, TypeVar

from robustlm.utils.importing import imported

T = TypeVar("T")


class Registry(dict[str, T]):
    """Registered things by name, in the order in which they were registered.

    Args:
        what: The word for one of them in messages, such as `noise kind`.
        own: Describes what else a config may name, such as `an import path like my.module.fn`.
        reserved: Names that cannot be registered.
    """

    def __init__(self, what: str, own: str, reserved: Collection[str] = ()) -> None:
        super().__init__()
        self._what = what
        self._own = own
        self._reserved = tuple(reserved)
        self._families: dict[str, Callable[[str], T]] = {}

    def copy(self) -> Self:
        """Another registry with the same things."""
        found = type(self)(self._what, self._own, self._reserved)
        found.update(self)
        found._families.update(self._families)
        return found

    def check_free(self, name: str, taken: Collection[str] = ()) -> None:
        """Raise `ValueError` if a name is registered, reserved or among those `taken` elsewhere."""
        if name in self or name in self._reserved or name in taken:
            raise ValueError(f"found a second {self._what} named {name!r}, which exists already; expected another name")

    def add(self, name: str, thing: T) -> None:
        """Register a thing. Raises `ValueError` if the name is taken."""
        self.check_free(name)
        self[name] = thing

    def add_family(self, name: str, make: Callable[[str], T]) -> None:
        """Register a function that makes a thing from the argument after a colon, as in `synonyms:wordnet`.

        Args:
            name: The text before the colon.
            make: Receives the argument; an empty text if there is no colon and the name itself is not registered.
                Raises `ValueError` if it cannot make a thing.
        """
        if name in self._families:
            raise ValueError(f"found a second family of {self._what}s named {name!r}; expected another name")
        self._families[name] = make

    def found(self, name: str) -> object | None:
        """The thing that a config names: a registered one, one that a family makes, or any object at an import path.

        Returns:
            The thing; null if nothing is found. The caller must check an object from an import path.

        Raises:
            ValueError: A family refuses its argument, or the module at an import path cannot be imported.
        """
        if name in self:
            return self[name]
        family, _, argument = name.partition(":")
        if family in self._families:
            try:
                return self._families[family](argument)
            except ValueError as error:
                raise ValueError(f"{self._what} {family}: {error}") from error
        try:
            return imported(name)
        except ValueError as error:
            raise ValueError(f"{self._what} {error}") from error

    def expected(self, name: str, more: Iterable[str] = ()) -> str:
        """The end of a message about an unknown name: the names that would be valid.

        Args:
            name: The unknown name.
            more: Valid names in addition to the registered ones.
        """
        known = list(dict.fromkeys([*more, *self, *self._families]))
        near = get_close_matches(name, known, n=2)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        return f"one of {', '.join(known)}, or {self._own}{hint}"
