"""Read YAML quickly. Refuse duplicate keys, of which one would be lost, and aliases that expand without limit."""

from __future__ import annotations

import yaml

LARGEST = 100_000
"""Most values in a document after its aliases are expanded; the longest config here has fewer than 200."""

_QUICK: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml reads the same values in a tenth of the time; PyYAML may be built without it."""
_OPENING = "[{-:?"
"""Each level of a document has at least one of these characters."""
_MOST_OPENING = 300
"""libyaml has no limit for nested levels: the process ends when its stack is full, above 5,000 levels. With so few of
these characters, a text has no more levels than PyYAML's own reader can read."""


def read_yaml(text: str) -> object:
    """The value of a YAML text, as `yaml.safe_load` finds it, but quicker. `check_yaml` is not included.

    Raises:
        yaml.YAMLError: The text is not valid YAML. `problem_mark` of the error is the position.
    """
    if not _is_shallow(text):
        return yaml.safe_load(text)
    try:
        return yaml.load(text, _QUICK)
    except yaml.YAMLError:
        return yaml.safe_load(text)  # errors of PyYAML's own reader also show the line


def check_yaml(text: str) -> None:
    """Refuse duplicate keys, and aliases that contain themselves or make a document too large.

    A text that cannot contain either is not parsed.

    Raises:
        yaml.YAMLError: The text has one of these, or is not valid YAML. `problem_mark` of the error is the position.
        RecursionError: It has hundreds of levels.
    """
    if not any(sign in text for sign in ":*"):
        return  # no key and no alias, as in most values of flags
    try:
        if _is_shallow(text):
            return _check(text, _QUICK)
    except yaml.YAMLError:
        pass  # errors of PyYAML's own reader also show the line
    _check(text, yaml.SafeLoader)


def _is_shallow(text: str) -> bool:
    """Whether the text cannot have too many levels for libyaml."""
    return sum(map(text.count, _OPENING)) <= _MOST_OPENING


def _check(text: str, loader: type[yaml.SafeLoader] | type[yaml.CSafeLoader]) -> None:
    root = yaml.compose(text, loader)
    if root is not None:
        _size(root, {}, [])


def _size(node: yaml.Node, sizes: dict[int, int], above: list[int]) -> int:
    """Number of values in a node after its aliases are expanded; every node is visited once."""
    if id(node) in above:
        raise _refused(node, "an alias (*) repeats a part that contains the alias itself")
    if id(node) in sizes:
        return sizes[id(node)]
    above.append(id(node))
    size = 1
    if isinstance(node, yaml.SequenceNode):
        size += sum(_size(item, sizes, above) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        known: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                name = (key.tag, key.value)
                if name in known:
                    raise _refused(
                        key, f"the key {_shown(key.value)} occurs twice (first in line {known[name]}); remove one"
                    )
                known[name] = key.start_mark.line + 1
            size += _size(key, sizes, above) + _size(value, sizes, above)
    above.pop()
    if size > LARGEST:
        raise _refused(
            node, f"aliases (*) repeat its parts to more than {LARGEST:,} values; write the parts out instead"
        )
    sizes[id(node)] = size
    return size


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


def _refused(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
