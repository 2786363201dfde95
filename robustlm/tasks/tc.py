"""Classification of a text or of a pair of texts: `label: class`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from robustlm.rows.base import RowData
from robustlm.rows.fields import lacks, present, required, shown, squeezed
from robustlm.rows.published import pronoun
from robustlm.sample import Context
from robustlm.tasks.base import Answer, Task, register
from robustlm.tasks.final import answered_part, bare, keyed, marked
from robustlm.tasks.items import Item
from robustlm.tasks.labels import Labels, answered, unquoted
from robustlm.tasks.naming import named_label

_FEW_WORDS = 5
"""Longest text, in words, that counts as a class where labels are not known."""

_PREFIX = "label:"
_FORM = "label: class"

_TEXT_KEYS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("sentence",),
    ("text",),
    ("question",),
)
"""Possible keys of the texts to classify."""

_BANKS = {
    "sentiment": {"positive", "negative", "neutral", "very positive", "very negative", "mixed"},
    "acceptability": {"acceptable", "unacceptable"},
    "question_type": {"abbreviation", "description", "entity", "human", "location", "numeric"},
    "topic": {
        "business",
        "sci/tech",
        "science",
        "technology",
        "sports",
        "sport",
        "world",
        "politics",
        "health",
    }
    | {"entertainment", "tech", "finance", "travel", "culture"},
}
_PAIR_BANKS = {
    "nli": {"entailment", "neutral", "contradiction", "not_entailment"},
    "paraphrase": {
        "equivalent",
        "not_equivalent",
        "paraphrase",
        "not_paraphrase",
        "duplicate",
        "not_duplicate",
    },
}
_QUESTION_BANKS = {
    "yes_no": {"yes", "no", "true", "false"},
    "answerability": {"entailment", "not_entailment"},
}


@register
class Classification(Task):
    """Name the class of a text, of two sentences, or of a question and a text."""

    name = "tc"
    score = "accuracy"
    keys = f"label, and {' or '.join(' + '.join(keys) for keys in _TEXT_KEYS)} (+ span1_text and span2_text)"
    labelled = True
    bare = "tc_bare"

    def recognises(self, row: RowData) -> bool:
        """Rows with `label` and the text keys of one entry in `_TEXT_KEYS`."""
        return "label" in row and bool(_text_keys(row))

    def filled(self, row: RowData) -> RowData | None:
        """Rows with the text keys of one entry in `_TEXT_KEYS`, and neither `label` nor `choices`."""
        fits = lacks(row, "label") and "choices" not in row and _text_keys(row)
        return {**row, "label": "-"} if fits else None

    def bank(self, context: Context, labels: Collection[str]) -> str:
        """The bank for this kind of rows that has all the labels; `tc`, which fits all rows, if there is none."""
        banks = _QUESTION_BANKS if context.question else _PAIR_BANKS if _is_pair(context) else _BANKS
        lowered = {label.lower() for label in labels}
        return next((name for name, known in banks.items() if lowered <= known), Classification.name)

    def read(self, row: RowData) -> tuple[Context, tuple[Item, ...], tuple[str, ...]]:
        """Read texts and label; the choices are empty, since one row does not show the other labels."""
        found = _text_keys(row)
        if len(found) != 1:
            several = " or ".join(" + ".join(keys) for keys in found) or f"keys {', '.join(row)}"
            raise ValueError(f"unclear text: found {several}; expected one of {self.keys}")
        label = squeezed(_label(row))
        if _is_pronoun(row):
            question, text = pronoun(row)
            return Context(question=question, format=_FORM, text=text), ((label,),), ()
        texts = [required(row, key) for key in found[0]]
        return _context(found[0], texts), ((label,),), ()

    def named(self, row: RowData, labels: Labels) -> RowData:
        """The row with its label replaced by its name."""
        return {**row, "label": labels.name(present(row, "label"))}

    def format(self, items: Sequence[Item]) -> str:
        """Write the class after `label: `."""
        if len(items) != 1 or len(items[0]) != 1 or not items[0][0] or items[0][0] != squeezed(items[0][0]):
            raise ValueError(f"{self.name}: found items {items!r}; expected one label, with single spaces only")
        return f"{_PREFIX} {answered(items[0][0])}"

    def parse(self, text: str) -> Answer:
        """Read the class after `label:`. Without `label:` or without a class, the answer is malformed.

        A class with a comma may be in quotes, as in lists of options.
        """
        answer = text.strip()
        label = squeezed(unquoted(squeezed(answer.removeprefix(_PREFIX))))
        if not answer.startswith(_PREFIX) or not label:
            return Answer((), malformed=1)
        return Answer(((label,),))

    def lenient(self, text: str, labels: Sequence[str] = ()) -> tuple[Item, ...] | None:
        """The class that an answer names, by the rules of `robustlm.tasks.naming`.

        Without known labels, it is the class in the format, or a short text that stands alone.
        """
        answer = self.parse(text)
        if labels:
            if answer.parsed and answer.items[0][0] in labels:
                return answer.items
            found = named_label(text, labels)
            return None if found is None else ((found,),)
        part = answered_part(text)
        said = marked(part) or keyed(part) or (part if len(part.split()) <= _FEW_WORDS else "")
        label = bare(squeezed(said).removeprefix(_PREFIX))
        return ((label,),) if label else None

    def leniently_correct(self, items: tuple[Item, ...] | None, target: str, labels: Sequence[str] = ()) -> bool:
        """Whether the class is the true one; without known labels, case does not count."""
        gold = self.parse(target).items
        if labels or items is None:
            return items == gold
        return [item[0].casefold() for item in items] == [bare(item[0]).casefold() for item in gold]


@register
class BareClassification(Classification):
    """Classification whose answer is only the class, for instructions that state the answer's format."""

    name = "tc_bare"
    keys = ""
    bare = ""
    bare_of = "tc"

    def recognises(self, row: RowData) -> bool:
        """Always false: rows of `tc` become rows of this task if a source or bank says so."""
        return False

    def filled(self, row: RowData) -> RowData | None:
        """Always null, since no rows are recognised."""
        return None

    def format(self, items: Sequence[Item]) -> str:
        """Write the class."""
        return super().format(items).removeprefix(f"{_PREFIX} ")

    def parse(self, text: str) -> Answer:
        """Read the whole text as the class; an empty text is malformed."""
        return super().parse(f"{_PREFIX} {text}")


def _label(row: RowData) -> str:
    if isinstance(row.get("label"), int | float):
        expected = "a name; `labels` of the source gives numbers theirs, and `round_to` makes classes of a scale"
        raise ValueError(f"label is no string: found {shown(row['label'])}; expected {expected}")
    return required(row, "label")


def _is_pronoun(row: RowData) -> bool:
    """Whether a row asks what a pronoun refers to, as rows of WSC do."""
    spans = row.get("target")
    return "span2_text" in row or (isinstance(spans, Mapping) and "span2_text" in spans)


def _text_keys(row: RowData) -> list[tuple[str, ...]]:
    """The entries of `_TEXT_KEYS` that fit a row, without those that are subsets of another fitting entry."""
    fitting = [keys for keys in _TEXT_KEYS if all(key in row for key in keys)]
    return [keys for keys in fitting if not any(set(keys) < set(others) for others in fitting)]


def _context(keys: tuple[str, ...], texts: list[str]) -> Context:
    form = _FORM
    if keys[0] == "question" and len(keys) == 2:
        return Context(question=texts[0], format=form, text=texts[1])
    if len(keys) == 2:
        return Context(format=form, text=f"Sentence 1: {texts[0]} Sentence 2: {texts[1]}")
    return Context(format=form, text=texts[0])


def _is_pair(context: Context) -> bool:
    return context.text.startswith("Sentence 1: ") and " Sentence 2: " in context.text
