"""The rival of every defence against misspellings that needs no training: correct the instruction before it is asked.

`CorrectedDataModule` is `RobustnessDataModule` with this step before each prompt, so its tests are those of `robustlm
test`, and a search for attacks has the corrector against it too. `benchmarks/spelling.yaml` compares it with training:

    PYTHONPATH=. robustlm study benchmarks/spelling.yaml

A word that occurs fewer than five times in the text `words` becomes the nearest one that occurs more often, by edits of
single letters and swaps of two neighbours: at most one edit for words of up to four letters, two for longer ones; among
equally near words, the most frequent. Words with a digit and words in capitals stay as they are.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from rapidfuzz.distance import OSA  # comes with python-Levenshtein

from robustlm.datamodules import RobustnessDataModule
from robustlm.datamodules.connection import ConnectedModel
from robustlm.prompts.base import Prompt, Template
from robustlm.sample import Sample

WORD = re.compile(r"[^\W_]+")
LEAST = 5
"""Words that a text has less often may be misspelled there."""


def word_counts(path: Path) -> Counter[str]:
    """How often a text, or the `.txt` and `.txt.gz` files of a folder, have each word, in small letters."""
    files = sorted(path.glob("*.txt*")) if path.is_dir() else [path]
    found: Counter[str] = Counter()
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            for line in lines:
                found.update(WORD.findall(line.lower()))
    return found


class Speller:
    """Corrects words by their distance to known ones.

    Args:
        counts: How often a text has each word, in small letters.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._known = {word: count for word, count in counts.items() if count >= LEAST}
        self._nearest = cache(self._search)

    def text(self, text: str) -> str:
        """The text with its words corrected; blanks and marks stay."""
        return WORD.sub(lambda found: self.word(found[0]), text)

    def word(self, word: str) -> str:
        """The word, or the nearest known one with the word's first letter as large as it was."""
        if not word.isalpha() or word.isupper() or word.lower() in self._known:
            return word
        found = self._nearest(word.lower())
        return found.capitalize() if word[0].isupper() else found

    def _search(self, word: str) -> str:
        most = 1 if len(word) <= 4 else 2
        near = [
            (edits, -count, known)
            for known, count in self._known.items()
            if abs(len(known) - len(word)) <= most
            for edits in [OSA.distance(word, known, score_cutoff=most)]
            if edits <= most
        ]
        return min(near)[2] if near else word


class Correcting(Template):
    """A template that corrects instructions before it writes them.

    Args:
        template: Writes the prompts.
        speller: Corrects.
    """

    def __init__(self, template: Template, speller: Speller) -> None:
        self.parts, self.notes = template.parts, template.notes
        self._template, self._speller = template, speller

    def render(self, sample: Sample, instruction: str) -> Prompt:
        """See `Template.render`."""
        return self._template.render(sample, self._speller.text(instruction))


class CorrectedDataModule(RobustnessDataModule):
    """Tests whose instructions are corrected before a model reads them.

    Args:
        words: A text file or a folder of them, whose words are known.
        kwargs: Arguments of `RobustnessDataModule`.
    """

    def __init__(self, words: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.words = words

    def connect(self, model: ConnectedModel) -> None:
        """See `InstructionDataModule.connect`."""
        super().connect(model)
        if not isinstance(self.encoder.template, Correcting):
            speller = Speller(word_counts(Path(self.words)))
            self.encoder.template = Correcting(self.encoder.template, speller)
