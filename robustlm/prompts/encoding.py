"""Encode samples as token ids with the origin of every token; only the context is truncated."""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, compress
from typing import Any, TypedDict

from robustlm.batch import Encoded, View, collate
from robustlm.prompts.base import Origin, Prompt, Template
from robustlm.prompts.specials import Spans, Specials, SpecialTextError
from robustlm.sample import Sample

log = logging.getLogger(__name__)

_TOGETHER = 256
"""Samples whose choices are tokenised in one call. The limit saves memory: the tokenizer's result is many times larger
than the ids."""


class _Written(TypedDict):
    text: str
    offsets: Sequence[int]
    chat: Sequence[tuple[str, int, int]]
    fields: Sequence[str]
    tools: str


@dataclass(frozen=True, slots=True)
class _Said:
    """An answer as it is written after its prompt."""

    text: str
    given: Spans
    """The pieces of it that come from a row."""
    end: str
    """The special token that ends it; empty: the tokenizer's end token."""

    @classmethod
    def of(cls, prompt: Prompt, sample: Sample) -> _Said:
        """The target of a sample; calls of tools are as the template writes them."""
        reply = prompt.reply
        return cls.after(prompt, sample.target) if reply is None else cls(reply.text, reply.given, reply.end)

    @classmethod
    def after(cls, prompt: Prompt, answer: str) -> _Said:
        """An answer that is a text."""
        text = prompt.answer_prefix + answer
        return cls(text, [(len(prompt.answer_prefix), len(text))], prompt.answer_end)

    def stripped(self) -> _Said:
        """The answer without blanks around it."""
        start, text = len(self.text) - len(self.text.lstrip()), self.text.strip()
        given = [(max(a - start, 0), min(b - start, len(text))) for a, b in self.given]
        return _Said(text, given, self.end)


class TooLongError(ValueError):
    """Instruction and target alone do not fit into the length limit."""


class Encoder:
    """Tokenises prompts and answers.

    Args:
        tokenizer: A fast tokenizer; its character offsets tell instruction tokens from context tokens.
        template: How a prompt is written.
        max_length: Maximum tokens of a row, prompt and answer together (encoder–decoder models: of each).
        encoder_decoder: Whether the model is an encoder–decoder, whose decoder gets the answer.
    """

    def __init__(self, tokenizer: Any, template: Template, max_length: int, *, encoder_decoder: bool = False) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(
                f"tokenizer {type(tokenizer).__name__} gives no character offsets, which tell instruction from "
                "context; a fast tokenizer (tokenizer.json) is needed"
            )
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no end-of-sequence token, so a model could not learn "
                "to stop; set eos_token in its tokenizer_config.json, or name another by loading.tokenizer"
            )
        if max_length < 2:
            raise ValueError(f"data.max_length: {max_length} leaves no room for a prompt and an answer; expected ≥ 2")
        self.tokenizer = tokenizer
        self.template = template
        self.max_length = max_length
        self.encoder_decoder = encoder_decoder
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self._special = set(tokenizer.all_special_ids)
        self._specials = Specials(tokenizer)

    def encode(self, samples: Sequence[Sample], instructions: Sequence[str] | None = None) -> list[Encoded]:
        """Tokenise samples, each under its own instruction or the given one, shortening contexts that are too long.

        Raises:
            TooLongError: Instruction and target of a sample alone exceed `max_length`; the message names the sample.
        """
        rows = self.encode_untruncated(samples, instructions)
        return [self.truncate(row, sample.id) for row, sample in zip(rows, samples, strict=True)]

    def encode_untruncated(self, samples: Sequence[Sample], instructions: Sequence[str] | None = None) -> list[Encoded]:
        """Tokenise samples as `encode` does, without truncation."""
        if not samples:
            return []
        asked = instructions if instructions is not None else [sample.instruction for sample in samples]
        prompts = [self.template.render(sample, text) for sample, text in zip(samples, asked, strict=True)]
        self._check_replies(samples, prompts)
        special = prompts[0].add_special_tokens
        prompt_ids, prompt_offsets = self._prompts(prompts, special, samples)
        rows = []
        said = [_Said.of(prompt, sample) for prompt, sample in zip(prompts, samples, strict=True)]
        answers = self._answers(prompts, samples, said, prompt_ids, special)
        for prompt, ids, offsets, answer in zip(prompts, prompt_ids, prompt_offsets, answers, strict=True):
            if not self.encoder_decoder and ids and ids[-1] == self.tokenizer.eos_token_id:
                ids, offsets = ids[:-1], offsets[:-1]  # else the model would learn to answer after the end
            origins = _origins(prompt, ids, offsets, self._special)
            rows.append(
                Encoded(
                    prompt_ids=ids,
                    instruction=[origin is Origin.INSTRUCTION for origin in origins],
                    context=[origin is Origin.CONTEXT for origin in origins],
                    answer_ids=answer,
                    **self._written(prompt, offsets),
                    replies=_within(prompt.replies, offsets),
                )
            )
        return rows

    def _check_replies(self, samples: Sequence[Sample], prompts: Sequence[Prompt]) -> None:
        """Raise `ValueError` if earlier replies are to be trained, but no row can tell them apart."""
        for sample, prompt in zip(samples, prompts, strict=True):
            if sample.trains_earlier and (self.encoder_decoder or not prompt.chat):
                why = "a template that writes no chat, so earlier replies are not told apart"
                if self.encoder_decoder:
                    why = "an encoder–decoder, which writes one answer a row"
                raise ValueError(
                    f"{sample.id}: data.assistant_turns: found all with {why}; expected last, or each (a row for every "
                    "reply)"
                )

    def truncate(self, row: Encoded, name: str) -> Encoded:
        """Drop the last context tokens until the row fits.

        Raises:
            TooLongError: Dropping the whole context is not enough.
        """
        excess = self.excess(row)
        if excess <= 0:
            return row
        droppable = [i for i, is_context in enumerate(row.context) if is_context]
        answer_fits = not self.encoder_decoder or len(row.answer_ids) <= self.max_length
        if len(droppable) < excess or not answer_fits:
            raise TooLongError(
                f"{name}: instruction and target alone take {len(row) - len(droppable)} tokens, more than "
                f"max_length {self.max_length}; raise max_length or shorten the row"
            )
        dropped = set(droppable[-excess:])
        kept = [i for i in range(len(row.prompt_ids)) if i not in dropped]
        text, offsets, chat = _shortened(row, dropped)
        return Encoded(
            prompt_ids=[row.prompt_ids[i] for i in kept],
            instruction=[row.instruction[i] for i in kept],
            context=[row.context[i] for i in kept],
            answer_ids=row.answer_ids,
            text=text,
            offsets=offsets,
            chat=chat,
            replies=[row.replies[i] for i in kept] if row.replies else (),
            fields=row.fields,
            tools=row.tools,
        )

    def fitted(self, sample: Sample, row: Encoded) -> tuple[Sample, Encoded]:
        """Remove what precedes the row, from the start, until the row fits with its answer.

        Whole examples are removed first, then earlier turns of a chat, one question and its replies at a time. A system
        message is kept.

        Args:
            sample: The sample, with its own instruction.
            row: The tokenised sample at full length; it may have any answer.
        """
        while (sample.examples or sample.history) and self.excess(row) > 0:
            if sample.examples:
                sample = replace(sample, examples=sample.examples[1:])
            else:
                later = [at for at, turn in enumerate(sample.history) if at and turn[0] == "user"]
                sample = replace(sample, turns=(*sample.system, *(sample.history[later[0] :] if later else ())))
            row = replace(self.encode_untruncated([sample])[0], answer_ids=row.answer_ids)
        return sample, row

    def choice_ids(self, samples: Sequence[Sample]) -> list[list[list[int]]]:
        """Token ids of every choice of every sample, tokenised like targets: after the prompt, and ended."""
        found: list[list[list[int]]] = []
        for start in range(0, len(samples), _TOGETHER):
            found += self._choice_ids(samples[start : start + _TOGETHER])
        return found

    def _choice_ids(self, samples: Sequence[Sample]) -> list[list[list[int]]]:
        prompts = [self.template.render(sample, sample.instruction) for sample in samples]
        special = prompts[0].add_special_tokens
        ids, _ = self._prompts(prompts, special, samples)
        pairs = [(i, choice) for i, sample in enumerate(samples) for choice in sample.choices]
        found: list[list[list[int]]] = [[] for _ in samples]
        if pairs:
            asked = [prompts[i] for i, _ in pairs]
            whose = [samples[i] for i, _ in pairs]
            said = [_Said.after(prompts[i], choice) for i, choice in pairs]
            answers = self._answers(asked, whose, said, [ids[i] for i, _ in pairs], special)
            for (i, _), answer in zip(pairs, answers, strict=True):
                found[i].append(answer)
        return found

    def options(self, row: Encoded, choices: Sequence[list[int]], name: str) -> list[Encoded]:
        """One row for each choice (token ids) as its answer; all share one prompt, truncated for the longest choice.

        A row's likelihood is that of the choice alone, so earlier replies have no labels here.

        Raises:
            TooLongError: Instruction and longest choice alone exceed `max_length`.
        """
        if not choices:
            return []
        longest = self.truncate(replace(row, answer_ids=max(choices, key=len), replies=()), name)
        return [replace(longest, answer_ids=ids) for ids in choices]

    def excess(self, row: Encoded) -> int:
        """How many tokens a row is over the limit (≤ 0: it fits)."""
        if self.encoder_decoder:
            return max(len(row.prompt_ids), len(row.answer_ids)) - self.max_length
        return len(row) - self.max_length

    def view(self, rows: Sequence[Encoded], *, with_answer: bool = True) -> View:
        """Rows padded into one view of `len(rows)` rows; see `robustlm.batch.collate`."""
        return collate(rows, pad_id=self.pad_id, encoder_decoder=self.encoder_decoder, with_answer=with_answer)

    def special_texts(self, samples: Sequence[Sample]) -> dict[str, int]:
        """Count rows that contain the text of a special token, by token; such text is tokenised as plain text."""
        found: Counter[str] = Counter()
        for sample in samples:
            prompt = self.template.render(sample, sample.instruction)
            texts = {text for answer in (sample.target, *sample.choices) for text in self._specials.within(answer)}
            found.update(texts | set(self._specials.within(prompt.text, prompt.given)))
        return dict(found)

    def _prompts(
        self, prompts: Sequence[Prompt], special: bool, samples: Sequence[Sample]
    ) -> tuple[list[list[int]], list[Sequence[tuple[int, int]]]]:
        """Token ids and offsets of prompts."""
        texts, given = [prompt.text for prompt in prompts], [prompt.given for prompt in prompts]
        return self._tokens(texts, given, special, samples, offsets=True)

    def _tokens(
        self,
        texts: Sequence[str],
        given: Sequence[Spans],
        special: bool,
        samples: Sequence[Sample],
        offsets: bool = False,
    ) -> tuple[list[list[int]], list[Sequence[tuple[int, int]]]]:
        """Call `Specials.tokens`, with errors that name the sample."""
        try:
            return self._specials.tokens(texts, given, add_special_tokens=special, offsets=offsets)
        except SpecialTextError:
            for text, spans, sample in zip(texts, given, samples, strict=True):
                try:
                    self._specials.tokens([text], [spans], add_special_tokens=special)
                except SpecialTextError as error:
                    raise SpecialTextError(f"{sample.id}: {error}") from None
            raise

    def _answers(
        self,
        prompts: Sequence[Prompt],
        samples: Sequence[Sample],
        said: Sequence[_Said],
        prompt_ids: Sequence[list[int]],
        special: bool,
    ) -> list[list[int]]:
        """Token ids of answers as continuations of their prompts, with the token that ends them.

        Tokenizers that mark word starts (SentencePiece) give a text other tokens when it stands alone than after a
        prompt. So prompt and answer are tokenised together, and the prompt's tokens are removed. If a token spans the
        boundary, the answer is tokenised alone.
        """
        eos = self.tokenizer.eos_token_id
        if self.encoder_decoder:
            return [[*ids, eos] for ids in self._plain([one.stripped() for one in said], samples)]
        given = [
            (*prompt.given, *((len(prompt.text) + start, len(prompt.text) + end) for start, end in one.given))
            for prompt, one in zip(prompts, said, strict=True)
        ]
        texts = [prompt.text + one.text for prompt, one in zip(prompts, said, strict=True)]
        whole, _ = self._tokens(texts, given, special, samples)
        separate: list[list[int]] | None = None
        answers = []
        for i, (before, full) in enumerate(zip(prompt_ids, whole, strict=True)):
            stripped = full[:-1] if full and full[-1] == eos else full
            opening = before[:-1] if before and before[-1] == eos else before
            if stripped[: len(opening)] == opening:
                answers.append([*stripped[len(opening) :], self._end(said[i])])
                continue
            separate = separate if separate is not None else self._plain(said, samples)
            answers.append([*separate[i], self._end(said[i])])
        return answers

    def _end(self, said: _Said) -> int:
        """The token that ends an answer."""
        return int(self.tokenizer.convert_tokens_to_ids(said.end) if said.end else self.tokenizer.eos_token_id)

    def _written(self, prompt: Prompt, offsets: Sequence[tuple[int, int]]) -> _Written:
        """A prompt's text and the places of its tokens in it, without special tokens that a tokenizer adds at the ends.

        A chat template may write these tokens itself. They are removed, because the tokenizer adds them when the text
        is used as a prompt again.
        """
        text, start = prompt.text, 0
        if not prompt.add_special_tokens:
            for name in ("bos_token", "cls_token"):
                token = getattr(self.tokenizer, name, None)
                if token and text.startswith(token):
                    text, start = text[len(token) :], len(token)
                    break
            for name in ("eos_token", "sep_token"):
                token = getattr(self.tokenizer, name, None)
                if token and text.endswith(token):
                    text = text[: -len(token)]
                    break
        if text == prompt.text:
            return {"text": text, "offsets": array("I", chain.from_iterable(offsets)), "chat": list(prompt.chat)}

        def place(at: int) -> int:
            return min(max(at - start, 0), len(text))

        places = (place(at) for pair in offsets for at in pair)
        chat = [(role, place(first), place(last)) for role, first, last in prompt.chat]
        return {
            "text": text,
            "offsets": array("I", places),
            "chat": chat,
            "fields": prompt.fields,
            "tools": prompt.tools,
        }

    def _plain(self, said: Sequence[_Said], samples: Sequence[Sample]) -> list[list[int]]:
        return self._tokens([one.text for one in said], [one.given for one in said], False, samples)[0]


def _within(spans: Spans, offsets: Sequence[tuple[int, int]]) -> Sequence[bool]:
    """For each token, whether it overlaps one of the spans, in order; empty if there are no spans."""
    if not spans:
        return ()
    found, at = [], 0
    for start, end in offsets:
        while at < len(spans) and spans[at][1] <= start:
            at += 1
        found.append(at < len(spans) and spans[at][0] < end and start < end)
    return found


def _shortened(row: Encoded, dropped: set[int]) -> tuple[str, Sequence[int], Sequence[tuple[str, int, int]]]:
    """The text of a row without dropped tokens, and the places of the kept tokens and of its messages in it."""
    places = list(zip(row.offsets[::2], row.offsets[1::2], strict=True))
    stays = [True] * len(row.text)
    before = 0
    for i, (start, end) in enumerate(places):
        if i in dropped:  # also drop the text between it and the token before
            stays[min(before, start) : end] = [False] * (end - min(before, start))
        before = end
    for i, (start, end) in enumerate(places):
        if i not in dropped:  # several tokens may share one character
            stays[start:end] = [True] * (end - start)
    at = [0, *accumulate(stays)]
    kept = (at[edge] for i, place in enumerate(places) if i not in dropped for edge in place)
    chat = [(role, at[start], at[end]) for role, start, end in row.chat]
    return "".join(compress(row.text, stays)), array("I", kept), chat


def _origins(prompt: Prompt, ids: Sequence[int], offsets: Sequence[tuple[int, int]], special: set[int]) -> list[Origin]:
    """The origin of each token: that of the first span that it overlaps."""
    found = []
    at = 0
    for token, (start, end) in zip(ids, offsets, strict=True):
        if token in special:
            found.append(Origin.SPECIAL)
            continue
        while at < len(prompt.spans) and prompt.spans[at][1] <= start:
            at += 1
        # some tokenizers give a single blank an empty range; it gets the origin of the span around it
        inside = at < len(prompt.spans) and prompt.spans[at][0] < end
        found.append(prompt.spans[at][2] if inside else Origin.SCAFFOLD)
    return found
