"""Free text: the answer is the text itself."""

from __future__ import annotations

from collections.abc import Sequence

from robustlm.tasks.base import Answer, Item, Task, register


@register
class Generation(Task):
    """Any text as the answer, compared as a whole; white space around it is ignored."""

    name = "generation"
    score = "accuracy"

    def format(self, items: Sequence[Item]) -> str:
        """Write the text unchanged."""
        if len(items) != 1 or len(items[0]) != 1 or not items[0][0] or items[0][0] != items[0][0].strip():
            raise ValueError(f"{self.name}: found items {items!r}; expected one text without space around it")
        return items[0][0]

    def parse(self, text: str) -> Answer:
        """Read the text unchanged; an empty text is malformed."""
        answer = text.strip()
        return Answer(((answer,),)) if answer else Answer((), malformed=1)
