"""Train a small tokenizer for a model that starts from scratch."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

# As in GPT-2, without its English contractions: words, digits and runs of marks include the blank before them.
_PIECES = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer.

    Its alphabet is the 256 bytes, so `decode(encode(text))` returns every text unchanged, and a misspelt word becomes
    pieces and not an unknown token. Offsets cover the text without gaps: a word's token includes the blank before it.
    No special tokens are added to a text, and the ids of a prompt are a prefix of the ids of
    `prompt + " " + answer` if the prompt does not end in white space.

    Args:
        texts: Texts to train the tokenizer on.
        vocab_size: Number of tokens, the 256 bytes and 4 special tokens included.

    Returns:
        A tokenizer that pads on the left, saved by `save_pretrained` and loaded by `AutoTokenizer`.

    Raises:
        ValueError: If `vocab_size` has no room for the bytes and the special tokens.
    """
    specials = list(SPECIAL_TOKENS.values())
    smallest = 256 + len(specials)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size: {vocab_size} is too small; expected ≥ {smallest}, the bytes and the special tokens"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, padding_side="left", clean_up_tokenization_spaces=False, **SPECIAL_TOKENS
    )
