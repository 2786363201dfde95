"""Calls of tools: the answer is one call or several."""

from __future__ import annotations

import json
from collections.abc import Sequence

from robustlm.tasks.base import Answer, Task, register
from robustlm.tasks.items import Item
from robustlm.utils.tool_calls import as_text, calls_in


@register
class ToolCalls(Task):
    """Calls of tools, each with its name and arguments; right if all are the true ones, in any order.

    Text around the calls does not count, nor do the order and the spacing of arguments.
    """

    name = "tool_calls"
    score = "accuracy"

    def format(self, items: Sequence[Item]) -> str:
        """`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, a line each."""
        return as_text([{"name": name, "arguments": json.loads(arguments)} for name, arguments in items])

    def parse(self, text: str) -> Answer:
        """All calls in the text, in the form of `format` and in those of published models; malformed without any."""
        found = tuple(calls_in(text))
        return Answer(found) if found else Answer((), malformed=1)
