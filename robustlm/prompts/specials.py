"""Tokenise the text of special tokens in rows as plain text; the template's own special tokens stay special.

A tokenizer reads `</s>` as the end of the sequence wherever it occurs. In an answer, it would teach a model to stop
early; in a prompt, it would let a row forge turns of a chat. Tokenizers can split all special tokens or none, but a
chat template needs its own kept whole. So for texts that contain any, a second tokenizer is made, in which every
special token has another spelling of the same length. The template's own special tokens get this spelling before the
text is tokenised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer

from robustlm.rows.fields import shown

Spans = Sequence[tuple[int, int]]
"""`(start, end)` of pieces of a text, in characters."""

_FIRST = 0xF0000
"""First character of a Unicode private-use plane; these characters have no meaning in texts."""


class SpecialTextError(ValueError):
    """A tokenizer cannot write the text of a special token as plain pieces."""


class Specials:
    """Tokenises texts so that special tokens spelled in rows become plain text.

    Args:
        tokenizer: A fast tokenizer, or one that splits text into characters and has no special tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        texts = {str(token): id for id, token in added.items() if token.special}
        known = getattr(tokenizer, "all_special_tokens", ())
        texts |= {text: tokenizer.convert_tokens_to_ids(text) for text in known if text not in texts}
        self._ids = {text: id for text, id in texts.items() if text}
        # longest first, since one token may be the beginning of another
        ordered = sorted(self._ids, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self._stand_ins = {text: chr(_FIRST + i) * len(text) for i, text in enumerate(ordered)}
        self._texts = {stand_in: text for text, stand_in in self._stand_ins.items()}
        self._covers = re.compile("|".join(self._texts) or "(?!)")
        self._unknown = getattr(tokenizer, "unk_token_id", None)
        self._control = set(self._ids.values()) - {self._unknown}
        self._loose = any(token.special and token.normalized for token in added.values())
        """Whether the tokenizer also recognises special tokens in other spellings, because it normalises text first."""
        self._split: Tokenizer | None = None

    def within(self, text: str, given: Spans | None = None) -> list[str]:
        """The special tokens whose text occurs in a text; with `given`, only those that overlap these pieces."""
        if self._pattern is None:
            return []
        return [
            match[0]
            for match in self._pattern.finditer(text)
            if given is None or any(start < match.end() and match.start() < end for start, end in given)
        ]

    def covered(self, text: str) -> str:
        """The text with a stand-in of the same length for each special token in it; see `uncovered`.

        Raises:
            SpecialTextError: The text has a private-use character that stands for a token.
        """
        if self._pattern is None or not text:
            return text
        if odd := next((one for one in text if _FIRST <= ord(one) < _FIRST + len(self._stand_ins)), ""):
            raise SpecialTextError(f"found the private-use character {odd!r} in a chat with tools; expected others")
        return self._pattern.sub(lambda match: self._stand_ins[match[0]], text)

    def uncovered(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """The text with special tokens again in place of their stand-ins, and `(start, end)` of each of these."""
        found: list[tuple[int, int]] = []
        if self._pattern is None or not self._covers.search(text):
            return text, found

        def spelt(match: re.Match[str]) -> str:
            found.append(match.span())
            return self._texts[match[0]]

        return self._covers.sub(spelt, text), found

    def last(self, text: str, start: int) -> tuple[int, int] | None:
        """`(start, end)` of the last special token in a text from `start` on, if there is one."""
        found = list(self._pattern.finditer(text, start)) if self._pattern else []
        return found[-1].span() if found else None

    def after(self, text: str, start: int) -> int:
        """End of the special token that follows `start`, if at most blanks are between; otherwise `start`."""
        at = len(text) - len(text[start:].lstrip())
        match = self._pattern.match(text, at) if self._pattern else None
        return match.end() if match else start

    def tokens(
        self, texts: Sequence[str], given: Sequence[Spans], *, add_special_tokens: bool, offsets: bool = True
    ) -> tuple[list[list[int]], list[Sequence[tuple[int, int]]]]:
        """Token ids and offsets of texts; special tokens in the given pieces are split like other text.

        Args:
            texts: The texts to tokenise.
            given: For each text, the pieces that come from rows.
            add_special_tokens: Whether the tokenizer adds special tokens around a text.
            offsets: Whether offsets are needed; if not, they may be empty.

        Raises:
            SpecialTextError: A given piece still contains a special token.
        """
        wanted = offsets or self._loose
        found = self._tokenizer(list(texts), return_offsets_mapping=wanted, add_special_tokens=add_special_tokens)
        ids = list(found["input_ids"])
        places = list(found["offset_mapping"]) if wanted else [()] * len(ids)
        for i, (text, spans) in enumerate(zip(texts, given, strict=True)):
            if self.within(text, spans) or (self._loose and self._taken(text, ids[i], places[i], spans)):
                ids[i], places[i] = self._cut_up(text, spans, add_special_tokens)
                if taken := self._taken(text, ids[i], places[i], spans):
                    raise SpecialTextError(
                        f"found {shown(taken)}, which the tokenizer of {self._tokenizer.name_or_path!r} takes for a "
                        "special token wherever it stands; expected a row without it: write it in another way"
                    )
        return ids, places

    def _cut_up(self, text: str, given: Spans, add_special_tokens: bool) -> tuple[list[int], Sequence[tuple[int, int]]]:
        assert self._pattern is not None

        def spelt(match: re.Match[str]) -> str:
            own = not any(start < match.end() and match.start() < end for start, end in given)
            return self._stand_ins[match[0]] if own else match[0]

        if odd := next((one for one in text if _FIRST <= ord(one) < _FIRST + len(self._stand_ins)), ""):
            raise SpecialTextError(f"found the private-use character {odd!r} beside the text of a special token")
        if self._split is None:
            self._split = self._respelt()
        made = self._split.encode(self._pattern.sub(spelt, text), add_special_tokens=add_special_tokens)
        return made.ids, made.offsets

    def _respelt(self) -> Tokenizer:
        """Copy the tokenizer with other spellings of its special tokens; their ids stay.

        Raises:
            SpecialTextError: The tokenizer cannot be copied, or ids would change.
        """
        name = self._tokenizer.name_or_path
        try:
            data = json.loads(self._tokenizer.backend_tokenizer.to_str())
        except Exception as error:  # a tokenizer with Python parts may raise anything
            raise SpecialTextError(f"the tokenizer of {name!r} cannot be copied ({error})") from error
        data["padding"] = data["truncation"] = None
        for token in data["added_tokens"]:
            token["content"] = self._stand_ins.get(token["content"], token["content"])
        model = data["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {self._stand_ins.get(piece, piece): id for piece, id in vocabulary.items()}
        else:
            model["vocab"] = [[self._stand_ins.get(piece, piece), score] for piece, score in vocabulary]
        if model.get("unk_token") in self._stand_ins:
            model["unk_token"] = self._stand_ins[model["unk_token"]]
        try:
            made = Tokenizer.from_str(json.dumps(data))
        except Exception as error:  # the library raises no other kind
            problem = f"the tokenizer of {name!r} cannot be rebuilt with other texts for its special tokens ({error})"
            raise SpecialTextError(problem) from error
        for text, id in self._ids.items():
            if made.token_to_id(self._stand_ins[text]) != id:
                raise SpecialTextError(f"the tokenizer of {name!r} gives {text!r} another id when it has another text")
        return made

    def _taken(self, text: str, ids: Sequence[int], offsets: Iterable[tuple[int, int]], given: Spans) -> str:
        """The first text in the given pieces that the tokenizer reads as a special token; empty if there is none."""
        for token, (start, end) in zip(ids, offsets, strict=True):
            if token in self._control and any(max(a, start) < min(b, end) for a, b in given):
                return text[start:end]
        return ""
