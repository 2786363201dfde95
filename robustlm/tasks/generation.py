"""Free text: the answer is the text itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from robustlm.rows.fields import squeezed
from robustlm.tasks.base import Answer, Task, register
from robustlm.tasks.final import answered_part, bare, keyed, marked, stated_answer
from robustlm.tasks.items import Item
from robustlm.tasks.naming import named_label


@register
class Generation(Task):
    """Any text as the answer, compared as a whole; white space around it is ignored."""

    name = "generation"
    score = "accuracy"
    lettered: ClassVar[bool] = False
    """Whether prompts put letters before the options, so that a letter is an answer."""

    def format(self, items: Sequence[Item]) -> str:
        """Write the text unchanged."""
        if len(items) != 1 or len(items[0]) != 1 or not items[0][0] or items[0][0] != items[0][0].strip():
            raise ValueError(f"{self.name}: found items {items!r}; expected one text without space around it")
        return items[0][0]

    def parse(self, text: str) -> Answer:
        """Read the text unchanged; an empty text is malformed."""
        answer = text.strip()
        return Answer(((answer,),)) if answer else Answer((), malformed=1)

    def lenient(self, text: str, labels: Sequence[str] = ()) -> tuple[Item, ...] | None:
        """The option that an answer names, by the rules of `robustlm.tasks.naming`.

        Without options: what is marked as the answer (a box, tags, `####`, JSON), else what follows the last `the
        answer is`, else all text after the reasoning, without quotes and Markdown around it.
        """
        if labels:
            answer = self.parse(text)
            if answer.parsed and answer.items[0][0] in labels:
                return answer.items
            found = named_label(text, labels, lettered=self.lettered)
            return None if found is None else ((found,),)
        part = answered_part(text)
        # an answer of nothing but marks, such as a colon, is kept
        found = bare(marked(part) or keyed(part) or stated_answer(part) or part) or part.strip()
        return ((found,),) if found else None

    def leniently_correct(self, items: tuple[Item, ...] | None, target: str, labels: Sequence[str] = ()) -> bool:
        """Whether the option is the true one. Without options, both texts are read alike; case does not count."""
        if labels or items is None:
            return items == self.parse(target).items
        gold = self.lenient(target) or self.parse(target).items
        return [squeezed(one[0]).casefold() for one in items] == [squeezed(one[0]).casefold() for one in gold]

    def alike(self, strict: Sequence[Item], lenient: Sequence[Item], labels: Sequence[str] = ()) -> bool:
        """Whether both readings found the same. Without options, marks around a text such as a full stop do not count.

        The lenient reading leaves them out of both the answer and the true answer.
        """
        if labels:
            return super().alike(strict, lenient, labels)
        return [_unmarked(one[0]) for one in strict] == [_unmarked(one[0]) for one in lenient]


def _unmarked(text: str) -> str:
    """A text without quotes, Markdown and punctuation around it."""
    return squeezed(bare(text) or text)
