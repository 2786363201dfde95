"""The kinds of noise of [ANIT]: word replacement, insertion, truncation, shuffling and padding, and opposites."""

from __future__ import annotations

from robustlm.noise import opposites
from robustlm.noise.base import register_kind, word_budget
from robustlm.noise.pools import Pools
from robustlm.utils.random import Stream
from robustlm.utils.words import FALLBACK_WORDS, split_words


def random_word(rng: Stream, pools: Pools, avoid: str = "") -> str:
    """Draw a word other than `avoid`, from the built-in list where the vocabulary holds no other word."""
    for words in (pools.vocabulary, FALLBACK_WORDS):
        for _ in range(4 if words else 0):
            word = words[rng.below(len(words))]
            if word != avoid and len(word.split()) == 1:
                return word
    return FALLBACK_WORDS[FALLBACK_WORDS[0] == avoid]


@register_kind("random_replacement")
def random_replacement(words: list[str], omega: float, rng: Stream, pools: Pools) -> list[str]:
    """Replace k distinct words by other words of the vocabulary."""
    noisy = words.copy()
    for position in rng.sample(len(words), word_budget(len(words), omega)):
        noisy[position] = random_word(rng, pools, avoid=words[position])
    return noisy


@register_kind("random_insertion")
def random_insertion(words: list[str], omega: float, rng: Stream, pools: Pools) -> list[str]:
    """Insert k words of the vocabulary at random places."""
    noisy = words.copy()
    for _ in range(word_budget(len(words), omega)):
        noisy.insert(rng.below(len(noisy) + 1), random_word(rng, pools))
    return noisy


@register_kind("random_truncation")
def random_truncation(words: list[str], omega: float, rng: Stream, pools: Pools) -> list[str]:
    """Remove k consecutive words, but always leave at least one word."""
    removed = min(word_budget(len(words), omega), max(len(words) - 1, 0))
    start = rng.below(len(words) - removed + 1)
    return words[:start] + words[start + removed :]


@register_kind("random_shuffling")
def random_shuffling(words: list[str], omega: float, rng: Stream, pools: Pools) -> list[str]:
    """Exchange the positions of k words (at least two).

    The chosen words move in one cycle, so each of them changes its position. If two of them differ, the text changes
    too. An instruction that only repeats one word has no other order, so its words are replaced instead.
    """
    budget = word_budget(len(words), omega)
    if budget == 0 or len(words) < 2:
        return words.copy()
    chosen = rng.sample(len(words), max(2, budget))
    first = words[chosen[0]]
    if all(words[position] == first for position in chosen):
        others = [position for position, word in enumerate(words) if word != first]
        if not others:
            return random_replacement(words, omega, rng, pools)
        chosen[-1] = others[rng.below(len(others))]
    noisy = words.copy()
    for position, source in zip(chosen, [*chosen[1:], chosen[0]], strict=True):
        noisy[position] = words[source]
    return noisy


@register_kind("in_context_padding")
def in_context_padding(words: list[str], omega: float, rng: Stream, pools: Pools) -> list[str]:
    """Insert k consecutive words of another sample's context (all its words if fewer) at a random place."""
    budget = word_budget(len(words), omega)
    if budget == 0:
        return words.copy()
    padding = _context_run(budget, rng, pools)
    place = rng.below(len(words) + 1)
    return [*words[:place], *padding, *words[place:]]


def _context_run(length: int, rng: Stream, pools: Pools) -> list[str]:
    for _ in range(8 if pools.contexts else 0):
        context = pools.contexts[rng.below(len(pools.contexts))]
        if context != pools.own and (found := split_words(context)):
            start = rng.below(max(len(found) - length, 0) + 1)
            return found[start : start + length]
    return [random_word(rng, pools) for _ in range(length)]


@register_kind("opposite", in_place=True)
def opposite(words: list[str], omega: float, rng: Stream, pools: Pools) -> list[str]:
    """Negate, contradict or blur the instruction by the rules of `robustlm.noise.opposites`.

    Each replaced or inserted word counts as one touched word, and at most k words are touched: "classify" → "perhaps
    classify" needs k ≥ 1, "do not classify" k ≥ 2, and "Classify" → "Do not classify" k ≥ 3, because its capital
    changes too. Punctuation is part of a word: "is." → "is not." needs k ≥ 2. If the rules leave some of the budget, a
    contradiction is appended with probability ½; if no rule applies or fits into k, one is always appended.
    Contradictions of one word ("Conversely.", "Unless?") fit into every k ≥ 1.
    """
    left = budget = word_budget(len(words), omega)
    noisy = words.copy()
    rules = opposites.edits(words) if budget else []
    for rule in rng.sample(len(rules), min(len(rules), budget)):
        position, phrases = rules[rule]
        affordable = [phrase for phrase in phrases if opposites.cost(words[position], phrase) <= left]
        if affordable:
            phrase = affordable[rng.below(len(affordable))]
            noisy[position] = opposites.replace_core(words[position], phrase.text)
            left -= opposites.cost(words[position], phrase)
    if left and (left == budget or rng.below(2)):
        affordable = [phrase for phrase in opposites.CONTRADICTIONS if phrase.cost <= left]
        noisy.append(affordable[rng.below(len(affordable))].text)
    return noisy
