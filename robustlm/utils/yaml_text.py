"""What YAML of a user or a file must not hold: a key twice, of which one would be lost, or aliases without end."""

from __future__ import annotations

import yaml

LARGEST = 100_000
"""Values that a document may have once its aliases are written out; the longest config here has under 200."""


def check_yaml(text: str) -> None:
    """Refuse duplicate keys, and aliases that blow a document up or contain themselves.

    A text that can hold neither is not parsed.

    Raises:
        yaml.YAMLError: The text holds one of these, or is no YAML; the error has the place as `problem_mark`.
    """
    if not any(sign in text for sign in ":*"):
        return  # neither a key nor an alias: most values of flags
    root = yaml.compose(text, yaml.SafeLoader)
    if root is not None:
        _size(root, {}, [])


def _size(node: yaml.Node, sizes: dict[int, int], above: list[int]) -> int:
    """Values in a node with all its aliases written out; every node is visited once."""
    if id(node) in above:
        raise _refused(node, "an alias (*) stands inside of what it repeats")
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
                        key, f"the key {_shown(key.value)} is there twice (first in line {known[name]}); remove one"
                    )
                known[name] = key.start_mark.line + 1
            size += _size(key, sizes, above) + _size(value, sizes, above)
    above.pop()
    if size > LARGEST:
        raise _refused(node, f"aliases (*) repeat its parts to more than {LARGEST:,} values; write out what is meant")
    sizes[id(node)] = size
    return size


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


def _refused(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
