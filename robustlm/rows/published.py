"""Convert rows of published datasets into row shapes that tasks read.

This module covers only formats that the keys of a task cannot describe: whole documents, triplets in one string, other
names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from robustlm.rows.base import RowData
from robustlm.rows.fields import elements, present, required, shown, squeezed

_TRIPLET = re.compile(r"\(\[([\d, ]+)\], \[([\d, ]+)\], (['\"])([^'\"]+)\3\)")
_OTHERS = {"label", "target", "output", "instruction", "prompt", "messages", "triplets", "relations", "entities"}
"""A row with one of these keys is not searched for triplets."""
_PUNCTUATION = ".,;:!?\"'()"
_NO_RELATION = "None"
"""Label of a pair of entities without a relation in NYT rows."""


def unfolded(row: RowData, task: str | None) -> Iterator[tuple[str, RowData]]:
    """Yield the rows that a published row contains, each with a suffix for its id; yield other rows as they are.

    - A SciERC document (`sentences`, with `ner` or `relations`): a row for each sentence.
    - A sentence of NYT (`sentText`, `relationMentions`).
    - A sentence of ASTE (`text` with `####` and triplets of word numbers).
    - A pair of GLUE's QQP (`is_duplicate` instead of `label`).
    - An example of BIG-bench (`input` and `target_scores`): a question with choices.

    Rows with both entities and relations count as relation rows, unless `task` is `ner`.

    Args:
        row: The row as read.
        task: Task whose answers are needed; None: not specified.

    Raises:
        ValueError: The row does not have the published format; the message says what was found.
    """
    if "sentences" in row and ("ner" in row or "relations" in row):
        yield from _document(row, task)
    elif "sentText" in row and "relationMentions" in row:
        yield "", _sentence(row)
    elif not _OTHERS & set(row) and isinstance(text := row.get("text"), str) and "####" in text:
        yield "", {**row, **_triplets(text)}
    elif "is_duplicate" in row and "label" not in row:
        yield "", {"label" if key == "is_duplicate" else key: value for key, value in row.items()}
    elif "target_scores" in row and "input" in row and not {"choices", "answer"} & set(row):
        yield "", _scored(row)
    elif task == "ner" and "text" in row and "entities" in row:
        yield "", {key: value for key, value in row.items() if key != "relations"}
    else:
        yield "", row


def _document(row: RowData, task: str | None) -> Iterator[tuple[str, RowData]]:
    sentences = [
        _words(sentence, f"sentence {number}")
        for number, sentence in enumerate(elements(row, "sentences", list, "a list of lists of words"))
    ]
    wanted = [key for key in ("ner", "relations") if row.get(key) is not None and (key, task) != ("relations", "ner")]
    marks: dict[str, list[list[object]]] = {}
    for key in wanted:
        found = marks[key] = elements(row, key, list, "a list of lists, one a sentence")
        if len(found) != len(sentences):
            raise ValueError(f"{key} does not fit sentences: found {len(found)} lists; expected {len(sentences)}")
    rest = {key: value for key, value in row.items() if key not in ("sentences", "ner", "relations", "clusters", "id")}
    words = [word for sentence in sentences for word in sentence]
    for number, sentence in enumerate(sentences):
        text = " ".join(sentence)
        made: dict[str, object] = {"text": text}
        if "ner" in wanted:
            made["entities"] = [
                {"text": _span(words, places), "type": kind}
                for places, kind in (_marked(one, 2, "ner", number) for one in marks["ner"][number])
            ]
        if "relations" in wanted:
            made["relations"] = [
                {"head": _span(words, places[:2]), "type": kind, "tail": _span(words, places[2:])}
                for places, kind in (_marked(one, 4, "relations", number) for one in marks["relations"][number])
            ]
        if text.strip():
            yield f"/{number}", {**rest, **made}


def _scored(row: RowData) -> RowData:
    """The question, choices and answer of an example of BIG-bench; the answer is the choice with the highest score."""
    scores = row["target_scores"]
    if not isinstance(scores, Mapping) or not scores or any(not isinstance(n, int | float) for n in scores.values()):
        raise ValueError(f"wrong target_scores: found {shown(scores)}; expected an object of numbers by choice")
    best = [str(choice) for choice, score in scores.items() if score == max(scores.values())]
    if len(best) > 1:
        raise ValueError(f"several answers: found the highest score for {', '.join(best)}; expected one answer")
    rest = {key: value for key, value in row.items() if key not in ("input", "target_scores", "target")}
    choices = [str(choice) for choice in scores]
    return {**rest, "question": required(row, "input"), "choices": choices, "answer": best[0]}


def _words(sentence: Sequence[object], where: str) -> list[str]:
    if wrong := [word for word in sentence if not isinstance(word, str)]:
        raise ValueError(f"wrong word: found {shown(wrong[0])} in {where}; expected a string")
    return [str(word) for word in sentence]


def _marked(mark: Any, numbers: int, key: str, sentence: int) -> tuple[list[int], str]:
    """The word numbers and the label of `[first, last, label]`."""
    fits = isinstance(mark, list | tuple) and len(mark) >= numbers + 1
    places = list(mark[:numbers]) if fits else []
    if not fits or not all(type(one) is int for one in places) or not isinstance(mark[numbers], str):
        expected = f"a list of {numbers} numbers of words and a label"
        raise ValueError(f"wrong element of {key}: sentence {sentence} has {shown(mark)}; expected {expected}")
    return places, mark[numbers]


def _span(words: Sequence[str], places: Sequence[int]) -> str:
    first, last = places
    if not 0 <= first <= last < len(words):
        raise ValueError(f"no such words: found {first} to {last}; expected numbers of the {len(words)} words, from 0")
    return " ".join(words[first : last + 1])


def _sentence(row: RowData) -> RowData:
    mentions = elements(row, "relationMentions", dict, "a list of objects {em1Text, em2Text, label}")
    relations = [
        {
            "head": required(mention, "em1Text"),
            "type": present(mention, "label"),
            "tail": required(mention, "em2Text"),
        }
        for mention in mentions
        if mention.get("label") != _NO_RELATION
    ]
    dropped = ("sentText", "relationMentions", "entityMentions")
    rest = {key: value for key, value in row.items() if key not in dropped}
    return {**rest, "text": required(row, "sentText").strip(), "relations": relations}


def _triplets(line: str) -> RowData:
    text, _, given = line.strip().partition("####")
    words = text.split()
    inner = given.strip()
    if not (inner.startswith("[") and inner.endswith("]")):
        raise ValueError(f"wrong triplets: found {shown(given)}; expected [([2], [5], 'NEG'), …] after ####")
    inner = inner[1:-1].strip()
    found = list(_TRIPLET.finditer(inner))
    # only commas may stand between triplets
    if re.sub(r"[\s,]", "", _TRIPLET.sub("", inner)):
        raise ValueError(f"wrong triplets: found {shown(given)}; expected [([2], [5], 'NEG'), …] after ####")
    return {
        "text": squeezed(text),
        "triplets": [
            {"aspect": _run(words, match[1]), "opinion": _run(words, match[2]), "sentiment": match[4]}
            for match in found
        ],
    }


def _run(words: Sequence[str], numbers: str) -> str:
    places = [int(number) for number in numbers.replace(",", " ").split()]
    if not places or places != list(range(places[0], places[-1] + 1)):
        raise ValueError(f"words apart: found the numbers [{numbers}]; expected a run such as [2, 3]")
    return _span(words, (places[0], places[-1]))


def pronoun(row: RowData) -> tuple[str, str]:
    """Question and text of a WSC row, whose spans are in `target` or in the row itself.

    If the row gives the pronoun's word number (`span2_index`), asterisks mark the pronoun in the text, because the same
    word may occur more than once.

    Raises:
        ValueError: The spans do not have the published format or do not fit the text.
    """
    target = row.get("target")
    spans: RowData = target if isinstance(target, Mapping) else row
    name, word = required(spans, "span1_text").strip(), required(spans, "span2_text").strip()
    text = required(row, "text").strip()
    place = spans.get("span2_index")
    words = text.split()
    size = len(word.split())
    if type(place) is int or (isinstance(place, str) and place.isdecimal()):
        text = _marked_pronoun(words, int(place), word, size)
    elif place is not None:
        raise ValueError(f"span2_index is no number: found {shown(place)}; expected the number of a word, from 0")
    elif len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text)) != 1:
        raise ValueError(f"unclear pronoun: found {word!r} not exactly once in the text; expected span2_index")
    return f'Does "{word}" refer to "{name}"?', text


def _marked_pronoun(words: Sequence[str], place: int, word: str, size: int) -> str:
    """The text with asterisks around the pronoun.

    In some published rows the number is off by one, or the pronoun is given with the punctuation after it or in another
    case. The word at the number, after it or before it counts, whichever fits first.
    """
    bare = word.strip(_PUNCTUATION) or word
    for case, at in product((0, re.IGNORECASE), (place, place + 1, place - 1)):
        found = " ".join(words[at : at + size]) if at >= 0 else ""
        match = re.search(rf"(?<!\w){re.escape(bare)}(?!\w)", found, case)
        if match:
            start, end = match.span()
            return " ".join([*words[:at], f"{found[:start]}*{match[0]}*{found[end:]}", *words[at + size :]])
    found = " ".join(words[place : place + size])
    expected = f"the words {word!r} (span2_text), there or one word beside it"
    raise ValueError(f"span2_index does not fit: found {shown(found)} at word {place} of the text; expected {expected}")
