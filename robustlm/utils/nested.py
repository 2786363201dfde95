"""Settings in nested mappings, as config files hold them."""

from __future__ import annotations


def nested(node: object, path: str) -> object:
    """Look up a setting by its dotted path, also inside `init_args` of classes; `None` if it is missing."""
    for key in path.split("."):
        if isinstance(node, dict) and key not in node:
            node = node.get("init_args")
        node = node.get(key) if isinstance(node, dict) else None
    return node
