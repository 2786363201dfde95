"""Multiple choice: the answer is the text of one option."""

from __future__ import annotations

import string

from robustlm.rows.base import RowData
from robustlm.rows.fields import check_choices, elements, lacks, required
from robustlm.sample import Context
from robustlm.tasks.base import register
from robustlm.tasks.generation import Generation
from robustlm.tasks.items import Item


@register
class MultipleChoice(Generation):
    """Answer a question with one of the options given."""

    name = "choice"
    keys = "question, choices, answer"
    bare = "choice"
    lettered = True

    def recognises(self, row: RowData) -> bool:
        """Rows with `question`, `choices` and `answer`."""
        return all(key in row for key in ("question", "choices", "answer"))

    def filled(self, row: RowData) -> RowData | None:
        """Rows with `question` and `choices`, and no `answer`."""
        choices = row.get("choices")
        if "question" not in row or not isinstance(choices, list | tuple) or not choices or not lacks(row, "answer"):
            return None
        return {**row, "answer": choices[0]}

    def read(self, row: RowData) -> tuple[Context, tuple[Item, ...], tuple[str, ...]]:
        """Read question, options and answer. The prompt puts letters before the options; the answer has no letter."""
        question = required(row, "question")
        choices = [choice.strip() for choice in elements(row, "choices", str, "a list of strings")]
        answer = required(row, "answer").strip()
        check_choices(choices, answer)
        if len(choices) > len(string.ascii_uppercase):
            raise ValueError(f"unusable choices: found {len(choices)}; expected at most 26, one a letter")
        if answer not in choices:
            raise ValueError(f"answer not among choices: found {answer!r}; expected one of {choices!r}")
        option = " ".join(f"({a}) {b}" for a, b in zip(string.ascii_uppercase, choices, strict=False))
        context = Context(question=question, format="the text of one option", option=option)
        return context, ((answer,),), tuple(choices)
