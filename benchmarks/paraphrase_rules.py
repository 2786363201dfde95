"""How many true paraphrases the rules of `robustlm paraphrase` lose: `python benchmarks/paraphrase_rules.py`.

Reads published lists of instructions under `$ROBUSTLM_DATA/instructions`: those of one list ask for one task with the
same placeholders and answers, so each is a true paraphrase of each other. Lists are split by a hash of their name into
`tuned` (which the rules may be fitted to) and `held out`. Prints the share that is lost and the reasons, and how many
exchanges (of placeholders, of yes and no, of premise and hypothesis) pass. Exchanges that ask for the same, by the
criteria of `symmetric` and `backwards`, have a line of their own. Ends with 1 where a share is beyond `BOUNDS`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from robustlm.tools.paraphrase_rules import Rules

SIDES = ("tuned", "held out")
FIELDS = {side: f"placeholders exchanged, {side}" for side in SIDES}
WORDS = "answers or sides exchanged"
SAME = "exchanged, and asks for the same"
BOUNDS = {"tuned": 0.05, "held out": 0.08, FIELDS["tuned"]: 0.0, FIELDS["held out"]: 0.005, WORDS: 0.0}
"""Greatest share of paraphrases that may be rejected and of exchanges that may pass, as `docs/data.md` has them."""
EXCHANGES = (("yes", "no"), ("true", "false"), ("premise", "hypothesis"), ("entailment", "not_entailment"))


def lists(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Name and instructions of every list, as published."""

    def read(name: str) -> Mapping[str, object]:
        found: Mapping[str, object] = json.loads((folder / f"{name}.json").read_bytes())
        return found

    for name, texts in read("coin_clean").items():
        yield f"coin/{name}", _texts(texts)
    for kind, tasks in read("promptbench_clean_bare").items():
        for name, texts in dict(tasks).items():  # type: ignore[call-overload]
            yield f"promptbench/{kind}/{name}", _texts(texts)
    for name, entry in read("instructioneval_unobserved").items():
        for key, texts in dict(entry).items():  # type: ignore[call-overload]
            yield f"instructioneval/{name}/{key}", _texts(texts)
    for name, texts in read("flan_templates").items():
        yield f"flan/{name}", [each["input"] for each in texts if each["target"] == "{answer}"]  # type: ignore[attr-defined]
    for name, texts in read("promptsource").items():
        asked = [each for each in texts if each["original_task"]]  # type: ignore[attr-defined]
        yield f"promptsource/{name}", [_plain(each["template"]) for each in asked]


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _plain(template: str) -> str:
    """A jinja template's prompt with `{field}` for its fields; literals in braces as they are."""
    prompt = template.partition("|||")[0]
    prompt = re.sub(r"\{\{\s*[\"'](.*?)[\"']\s*\}\}", r"\1", prompt)
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", r"{\1}", prompt).strip()


def pairs(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Side, instruction and a true paraphrase of it."""
    for name, texts in lists(folder):
        side = SIDES[hashlib.blake2b(name.encode(), digest_size=1).digest()[0] % 2]
        clean = [text.strip() for text in dict.fromkeys(texts) if "{%" not in text and "{{" not in text]
        for one, other in itertools.permutations(clean, 2):
            if asked_for(one) == asked_for(other):
                yield side, one, other


def asked_for(text: str) -> tuple[set[str], set[str]]:
    """Placeholders, and strings in quotes without these: texts of one list may differ in them, paraphrases do not."""
    quoted = re.findall(r"[\"“]([^\"”\n]+)[\"”]|(?<!\w)['‘]([^'’\n]+)['’](?!\w)", text)
    bare = {(one or other).strip(" .,;:") for one, other in quoted}
    return set(re.findall(r"\{\w*\}", text)), {each for each in bare if "{" not in each}


def exchanged(text: str) -> Iterator[str]:
    """The text with two placeholders, two answers or two roles exchanged; see `asks_the_same`."""
    names = list(dict.fromkeys(re.findall(r"\{\w+\}", text)))
    for one, other in itertools.combinations(names, 2):
        yield _swapped(text, re.escape(one), re.escape(other))
    for one, other in EXCHANGES:
        left, right = rf"\b{one}\b", rf"\b{other}\b"
        bound = one == "premise" or re.search(r"\b(if|otherwise|when|else)\b", text, re.IGNORECASE)
        if bound and re.search(left, text, re.IGNORECASE) and re.search(right, text, re.IGNORECASE):
            yield _swapped(text, left, right)


def asks_the_same(instruction: str, text: str, wrong: str) -> bool:
    """Whether a text asks for what the instruction does after the exchange, so that it must not count as wrong."""
    names, others = (re.findall(r"\{\w+\}", each) for each in (text, wrong))
    moved = {name for name, other in zip(names, others, strict=True) if name != other}
    turned = moved == {"{premise}", "{hypothesis}"} and backwards(text) != backwards(instruction)
    return bool(moved) and (turned or symmetric(text, moved))


def symmetric(text: str, names: Collection[str]) -> bool:
    """Whether a text asks for the same with two placeholders exchanged: if they are the same, or agree.

    They stand on both sides of such a word, or of "and" in its sentence: "Are {a} and {b} the same?", "How similar are
    {a} and {b}?", "Is {a} similar to {b}?", "Does the premise agree with the hypothesis?".
    """
    words = "|".join(name.strip("{}") for name in names)
    side = rf"(?:(?:the (?:{words}):? )?[\"']?(?:{'|'.join(map(re.escape, names))})[\"']?|(?:the )?\b(?:{words})\b)"
    same = r"(?:the same|similar|alike|equivalent|identical|related)\b"
    sides = (
        rf"{side} and {side}[^.?!\n{{}}]*\b{same}",
        rf"\b{same}[^.?!\n{{}}]* {side} and {side}",
        rf"{side} {same} (?:as|to|with) {side}",
        rf"{side} agrees? with {side}",
    )
    return re.search("|".join(sides), text, re.IGNORECASE) is not None


def backwards(text: str) -> bool:
    """Whether a text asks if {premise} follows from {hypothesis}, against their names, as two published ones do."""
    return re.search(r"\{premise\}[\"']? (?:true )?if [\"']?\{hypothesis\}", text) is not None


def _swapped(text: str, left: str, right: str) -> str:
    one = re.search(left, text, re.IGNORECASE)
    other = re.search(right, text, re.IGNORECASE)
    assert one is not None
    assert other is not None
    words = one[0], other[0]
    return re.sub(
        f"({left})|({right})", lambda match: words[1] if match[1] is not None else words[0], text, flags=re.IGNORECASE
    )


def measure(folder: Path) -> dict[str, Counter[str]]:
    """Reasons by side, `kept` for what passes; and the same of the exchanges, by what is exchanged."""
    found = {name: Counter[str]() for name in (*SIDES, *FIELDS.values(), WORDS, SAME)}
    rules = Rules(min_distance=0.0)
    for side, one, other in pairs(folder):
        found[side][rules.problem(one, other).partition(":")[0] or "kept"] += 1
        for text in (other, one):
            for wrong in exchanged(text):
                moved = re.findall(r"\{\w+\}", text) != re.findall(r"\{\w+\}", wrong)
                name = SAME if asks_the_same(one, text, wrong) else FIELDS[side] if moved else WORDS
                found[name][rules.problem(one, wrong).partition(":")[0] or "kept"] += 1
    return found


def beyond(found: Mapping[str, Counter[str]]) -> list[str]:
    """The names whose share is beyond its bound."""
    lost = {name: 1 - found[name]["kept"] / found[name].total() for name in SIDES}
    passed = {name: found[name]["kept"] / found[name].total() for name in (*FIELDS.values(), WORDS)}
    return [name for name, share in (lost | passed).items() if share > BOUNDS[name]]


def main() -> int:
    """Print the table; 1 if a share is beyond its bound."""
    if not (data := os.environ.get("ROBUSTLM_DATA")):
        print("ROBUSTLM_DATA is not set; expected the folder of datasets", file=sys.stderr)
        return 2
    found = measure(Path(data) / "instructions")
    for name, reasons in found.items():
        total, kept = reasons.total(), reasons["kept"]
        lost = ", ".join(f"{reason} {n:,}" for reason, n in reasons.most_common() if reason != "kept")
        print(f"{name}: {total:,} pairs, {1 - kept / total:.1%} rejected ({lost}); {kept:,} pass")
    for name in (wrong := beyond(found)):
        what = "rejected" if name in SIDES else "pass"
        print(f"{name}: more than {BOUNDS[name]:.1%} {what}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
