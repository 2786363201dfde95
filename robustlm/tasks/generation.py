"""Free text: the answer is the text itself."""

from __future__ import annotations

from collections.abc import Sequence

from robustlm.tasks.base import Answer, Item, Task, register


@register
class Generation(Task):
    """Any answer, compared as a whole; white space around it does not count."""

    name = "generation"
    score = "accuracy"

    def format(self, items: Sequence[Item]) -> str:
        """Write the text as it is."""
        if len(items) != 1 or len(items[0]) != 1 or not items[0][0] or items[0][0] != items[0][0].strip():
            raise ValueError(f"{self.name}: found items {items!r}; expected one text without space around it")
        return items[0][0]

    def parse(self, text: str) -> Answer:
        """Take the text as it is; nothing at all is malformed."""
        answer = text.strip()
        return Answer(((answer,),)) if answer else Answer((), malformed=1)
