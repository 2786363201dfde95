"""Get paraphrases of instructions from an OpenAI-compatible chat endpoint, check them by rules, write them to a file.

Each answer is stored on disk as soon as it arrives, so a repeated run, after an interruption or with other rules, does
not pay for it again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections import Counter, deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, TypedDict

from tqdm import tqdm  # type: ignore[import-untyped]

from robustlm.endpoint import AnswerCache, Connection, Endpoint, EndpointError
from robustlm.instructions.banks import InstructionBank, known_banks
from robustlm.instructions.paraphrases import check_suffix
from robustlm.instructions.published import divided
from robustlm.rows.base import RowData, SourceError
from robustlm.rows.writers import RowWriter, write_rows
from robustlm.tools.noise_rows import instructed_rows
from robustlm.tools.paraphrase_rules import Rules, parse_answer
from robustlm.utils.spool import Spool

DEFAULT_CACHE = "~/.cache/robustlm/paraphrases"
PROMPT = """\
Below is an instruction for a language model. Write {count} paraphrases of it: other wordings that ask for exactly the \
same thing. Vary words, sentence structure and tone. Keep what a program or a grader depends on as it is: words in \
braces such as {name}, quoted words, labels, formats, names and numbers. Do not follow the instruction, and neither \
add nor leave out conditions.
Answer with a JSON list of {count} strings and nothing else.

Instruction:
{instruction}"""
_LISTED = 20
_AHEAD = 64
"""Instructions in progress for each thread; the limit bounds memory."""


@dataclass(frozen=True)
class Question:
    """The request for paraphrases of an instruction, and the rules for its answers."""

    count: int = 8
    """Paraphrases wanted of each instruction."""
    prompt: str = PROMPT
    """Text of the request; `{instruction}` and `{count}` are filled in."""
    temperature: float | None = 1.0
    """Sampling temperature; null: the endpoint's own."""
    seed: int | None = 0
    """Seed of the first attempt; each further attempt adds 1. Null: no seed is sent."""
    rounds: int = 3
    """Maximum number of requests for one instruction; they end once there are enough good paraphrases."""
    rules: Rules = field(default_factory=Rules)
    """Rules that a paraphrase has to satisfy."""

    def __post_init__(self) -> None:
        for name in ("count", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name}: expected 1 or more, found {getattr(self, name)}")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise ValueError(f"--temperature: expected a number in [0, 2] or null, found {self.temperature}")
        if "{instruction}" not in self.prompt:
            raise ValueError(f"--prompt: expected {{instruction}} in it, found {self.prompt[:60]!r}")

    def request(self, model: str, instruction: str, kept: list[str], attempt: int) -> dict[str, object]:
        """The body of a request.

        Args:
            model: The model's name.
            instruction: What to paraphrase.
            kept: Paraphrases found so far.
            attempt: Number of the attempt, from 0.
        """
        values = {"{instruction}": instruction, "{count}": str(self.count)}
        # in one pass: an instruction may hold {count} itself
        text = re.sub(r"\{(instruction|count)\}", lambda match: values[match[0]], self.prompt)
        if kept:
            text += "\n\nThese wordings are there already, write others:\n" + "\n".join(f"- {each}" for each in kept)
        body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": text}]}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.seed is not None:
            body["seed"] = self.seed + attempt
        return body


class Said(TypedDict):
    """An answer of the endpoint, as the cache keeps it."""

    text: str
    cut: bool
    """Whether the endpoint's token limit ended the answer."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A candidate that is not a paraphrase."""

    instruction: str
    """The instruction."""
    paraphrase: str
    """The candidate."""
    problem: str
    """Why it was rejected; candidates are counted by the words before the first colon."""

    @property
    def reason(self) -> str:
        """The kind of problem, without this candidate's particulars."""
        return self.problem.partition(":")[0]


@dataclass
class Outcome:
    """Result for one instruction."""

    instruction: str
    """The instruction."""
    kept: list[str] = field(default_factory=list)
    """Its paraphrases."""
    rejected: list[Rejected] = field(default_factory=list)
    """Candidates that are not paraphrases."""
    requests: int = 0
    """Requests that were sent."""
    cached: int = 0
    """Answers taken from the cache."""


@dataclass
class ParaphraseSummary:
    """Summary of a `paraphrase` run; `print` shows it."""

    output: str
    """The file that was written."""
    wanted: int
    """Paraphrases wanted of each instruction."""
    instructions: int = 0
    """Number of distinct instructions."""
    kept: int = 0
    """Paraphrases in the file."""
    requests: int = 0
    """Requests that were sent."""
    cached: int = 0
    """Answers taken from the cache."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Number of rejected candidates by reason."""
    short: int = 0
    """Instructions with fewer paraphrases than wanted."""
    shortest: list[tuple[int, str]] = field(default_factory=list)
    """The first of these instructions, each after the number of its paraphrases."""

    @property
    def reasons(self) -> dict[str, int]:
        """Rejected candidates by reason, most frequent first."""
        return dict(self.rejected.most_common())

    def add(self, outcome: Outcome) -> None:
        """Count what became of a further instruction."""
        self.instructions += 1
        self.kept += len(outcome.kept)
        self.requests += outcome.requests
        self.cached += outcome.cached
        self.rejected.update(item.reason for item in outcome.rejected)
        if len(outcome.kept) < self.wanted:
            self.short += 1
            if self.short <= _LISTED:
                self.shortest.append((len(outcome.kept), outcome.instruction))

    def __str__(self) -> str:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in self.reasons.items()) or "none"
        lines = [
            f"{self.output}: {self.kept:,} paraphrases of {self.instructions:,} instructions",
            f"requests: {self.requests:,}, answers from the cache: {self.cached:,}",
            f"rejected: {reasons}",
        ]
        if self.short:
            lines.append(f"fewer than {self.wanted}: {self.short:,} instructions")
            lines += [f"  {kept} of {self.wanted}: {_headed(instruction)}" for kept, instruction in self.shortest]
        if self.short > _LISTED:
            lines.append(f"  … and {self.short - _LISTED:,} more")
        return "\n".join(lines)


def _headed(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:79] + "…"


# --------------------------------------------------------------------------------------------------- asking


class Paraphraser:
    """Asks an endpoint for paraphrases until there are enough good ones.

    Args:
        endpoint: The endpoint to ask.
        question: What to ask.
        cache: Where answers are stored; `None`: nowhere.
    """

    def __init__(self, endpoint: Endpoint, question: Question, cache: AnswerCache | None) -> None:
        self._endpoint = endpoint
        self._connection = Connection(endpoint)
        self._question = question
        self._cache = cache
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Send no further requests; requests in progress are finished, and their answers are stored."""
        self._stopped.set()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def paraphrase(self, instruction: str) -> Outcome:
        """Get paraphrases of one instruction; may be called from several threads.

        Raises:
            EndpointError: The endpoint fails for good.
        """
        outcome = Outcome(instruction)
        for attempt in range(self._question.rounds):
            if len(outcome.kept) >= self._question.count or self._stopped.is_set():
                break
            try:
                self._sort(self._candidates(outcome, attempt), outcome)
            except BaseException:
                # stop here, not in the waiting thread: another thread could start the next instruction meanwhile
                self.stop()
                raise
        return outcome

    def _sort(self, candidates: list[tuple[str, str]], outcome: Outcome) -> None:
        for candidate, problem in candidates:
            problem = problem or self._question.rules.problem(outcome.instruction, candidate, outcome.kept)
            if not problem and len(outcome.kept) == self._question.count:
                problem = f"surplus: {self._question.count} are enough"
            if problem:
                outcome.rejected.append(Rejected(outcome.instruction, candidate, problem))
            else:
                outcome.kept.append(candidate)

    def _candidates(self, outcome: Outcome, attempt: int) -> list[tuple[str, str]]:
        """Candidates of one answer, each with a problem that is known before the rules are applied, or with none."""
        answer = self._answer(outcome, attempt)
        candidates = [(candidate, "") for candidate in parse_answer(answer["text"])]
        if answer["cut"] and candidates:
            candidates[-1] = (candidates[-1][0], "cut off: the answer ends at the endpoint's token limit")
        return candidates or [(answer["text"], "empty: no candidates in the answer")]

    def _answer(self, outcome: Outcome, attempt: int) -> Said:
        body = self._question.request(self._endpoint.model, outcome.instruction, outcome.kept, attempt)
        parts = [self._endpoint.url, body, self._question.prompt, outcome.instruction, attempt]
        key = sha256(json.dumps(parts, sort_keys=True).encode()).digest()
        if self._cache and (known := self._cache.get(key)):
            outcome.cached += 1
            return Said(text=known["text"], cut=known["cut"])
        answer = self._ask(body)
        outcome.requests += 1
        if self._cache:
            self._cache.put(key, dict(answer))
        return answer

    def _ask(self, body: dict[str, Any]) -> Said:
        try:
            return self._connection.call(lambda client: _said(client.chat.completions.create(**body)))
        except EndpointError as error:
            named = [
                name for name in ("seed", "temperature") if name in body and re.search(rf"\b{name}\b", error.refused)
            ]
            hint = "".join(f"; where the endpoint takes no {name}, leave it out with --{name} null" for name in named)
            raise EndpointError(f"{error}{hint}") from None


def _said(completion: Any) -> Said:
    """The text of an answer, and whether the endpoint cut it off. Raises as `Endpoint.call` expects."""
    choice = completion.choices[0]
    text = choice.message.content
    if text is None:
        text = getattr(choice.message, "refusal", None) or ""
    if not isinstance(text, str):
        raise ValueError(f"expected text, found {type(text).__name__}")
    return {"text": text.encode("utf-8", "replace").decode(), "cut": choice.finish_reason == "length"}


# ---------------------------------------------------------------------------------------------------- files


def instructions_of(input: str, split: str | None = None) -> Iterator[str]:
    """The distinct instructions of rows, or the seen phrasings of a bank, in the order of first occurrence.

    Memory holds 16 bytes of each distinct instruction.

    Args:
        input: Rows as `iter_rows` takes them, an instruction bank's file, an entry of a file with many
            (`file.json#name`), or the name of a packaged bank.
        split: Which split of a folder or hub dataset.

    Raises:
        SourceError: There is nothing to read.
        BadRowsError: After the last row: rows are unreadable or have no instruction.
        ValueError: The bank is invalid or has no seen phrasings.
    """
    if _is_bank(input):
        texts: Iterator[str] = (phrasing.text for phrasing in InstructionBank.load(input).phrasings(split="seen"))
    else:
        texts = (sample.instruction.strip() for _, sample in instructed_rows(input, "reading", split))
    seen: set[bytes] = set()
    for text in texts:
        key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if key not in seen:
            seen.add(key)
            yield text


def _is_bank(input: str) -> bool:
    path = Path(input)
    if not path.exists():
        place = divided(input)  # one bank of a file with many
        return input in known_banks() or bool(place and place[1])
    # in a .json file, rows are a list and a bank is an object
    return (
        path.is_file()
        and input.endswith(".json")
        and path.read_bytes()[:1000].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
    )


def paraphrase(
    input: str,
    output: str,
    *,
    endpoint: Endpoint,
    question: Question,
    concurrency: int = 4,
    cache_dir: str | None = DEFAULT_CACHE,
    rejected: str | None = None,
    overwrite: bool = False,
    split: str | None = None,
) -> ParaphraseSummary:
    """Write a paraphrase file for the instructions of rows or of a bank.

    The file is written once all answers are there; until then, rows wait in temporary files, and the cache holds
    the progress: the same call, repeated, requests only what was not answered yet. The file depends on the answers
    alone, not on threads or interruptions.

    Args:
        input: As `instructions_of` takes it.
        output: File to write, `.jsonl` or `.jsonl.gz`.
        endpoint: The endpoint to ask.
        question: What to ask.
        concurrency: Number of parallel requests.
        cache_dir: Folder where answers are stored; with `None`, an interrupted run loses its answers.
        rejected: File for the rejected candidates, with reasons.
        overwrite: Whether existing files may be replaced.
        split: Which split of a folder or hub dataset.

    Returns:
        What was kept and rejected.

    Raises:
        SourceError: There is nothing to read, or a file exists that may not be replaced.
        EndpointError: The endpoint fails for good; only the cache is written.
    """
    if concurrency < 1:
        raise ValueError(f"--concurrency: expected 1 or more, found {concurrency}")
    _check_targets(input, [output, *([rejected] if rejected else [])], overwrite)
    cache = AnswerCache(cache_dir, "paraphrases") if cache_dir else None
    summary = ParaphraseSummary(output, question.count)
    with Spool(instructions_of(input, split)) as instructions, Spool[RowData]() as kept, Spool[RowData]() as left_out:
        try:
            with (
                contextlib.closing(Paraphraser(endpoint, question, cache)) as paraphraser,
                contextlib.closing(_each(paraphraser, instructions, concurrency)) as found,
            ):
                for outcome in found:
                    summary.add(outcome)
                    kept.append({"instruction": outcome.instruction, "paraphrases": outcome.kept})
                    for item in outcome.rejected if rejected else ():
                        row = {"instruction": item.instruction, "paraphrase": item.paraphrase}
                        left_out.append({**row, "reason": item.reason, "problem": item.problem})
        except EndpointError as error:
            progress = (
                f"answers so far are kept in {cache.path}; the same command continues from there" if cache else ""
            )
            raise EndpointError(
                f"{error}\n{output} was not written; {progress or 'no cache, so nothing was kept'}"
            ) from None
        if rejected:
            write_rows(rejected, left_out)
        write_rows(output, kept)
    return summary


class _TriedError(Exception):
    """Raised to leave a `RowWriter` that was opened only to test whether it can write."""


def _check_targets(input: str, targets: list[str], overwrite: bool) -> None:
    """Check that files can be written, before any request is paid for."""
    used = {os.path.realpath(input): "the input"} if os.path.exists(input) else {}
    for target in targets:
        check_suffix(target)
        path = os.path.realpath(target)
        if path in used:
            raise SourceError(f"{target}: found {used[path]} there; expected another name for what is written")
        used[path] = "another file to write"
        if os.path.isfile(path) and not overwrite:
            raise SourceError(f"{target}: found a file; expected a new name, or --overwrite true")
        with contextlib.suppress(_TriedError), RowWriter(target):
            raise _TriedError


def _each(paraphraser: Paraphraser, instructions: Spool[str], concurrency: int) -> Generator[Outcome]:
    """Get paraphrases of each instruction, in order; if one fails for good, finish those in progress and start no more.

    Raises:
        EndpointError: The endpoint fails for good. Outcomes that were given before may be incomplete then.
    """
    waiting: deque[Future[Outcome]] = deque()
    with (
        ThreadPoolExecutor(concurrency) as threads,
        tqdm(total=len(instructions), desc="paraphrasing", unit=" instructions", disable=None) as bar,
    ):
        try:
            for instruction in instructions:
                waiting.append(threads.submit(paraphraser.paraphrase, instruction))
                waiting[-1].add_done_callback(lambda _: bar.update())
                if len(waiting) >= concurrency * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            paraphraser.stop()
            threads.shutdown(wait=True, cancel_futures=True)
