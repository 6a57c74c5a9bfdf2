"""The closed-vocabulary CLIP tokenizer of the embedded model.

One token a word: a byte-pair table for a few hundred words would be larger than the network
that reads it. It is a plain `CLIPTokenizer`, so diffusers opens it like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from transformers import AddedToken, CLIPTokenizer, PreTrainedTokenizerBase

__all__ = ["MAX_TOKENS", "UNKNOWN", "closed_tokenizer", "closed_vocabulary", "read_vocabulary"]

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
MAX_TOKENS = 32
PUNCTUATION = (",", ".", ":")


def closed_tokenizer(words: Iterable[str], max_tokens: int = MAX_TOKENS) -> CLIPTokenizer:
    """A tokenizer that knows exactly `words` (lower case) and , . :

    Ids: 0 start, 1 end and padding, 2 unknown, then punctuation and the words in their order.
    Letters of an unknown word become one unknown token each.
    """
    tokenizer = CLIPTokenizer(
        vocab={START: 0, END: 1, UNKNOWN: 2},
        merges=[],
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=max_tokens,
    )
    marks = [AddedToken(mark, normalized=True) for mark in PUNCTUATION]
    entries = [AddedToken(word, single_word=True, normalized=True) for word in words]
    tokenizer.add_tokens(marks + entries)
    return tokenizer


def closed_vocabulary(tokenizer: PreTrainedTokenizerBase) -> frozenset[str] | None:
    """The words a closed tokenizer knows; None for a tokenizer that can spell any word."""
    if tokenizer.unk_token != UNKNOWN:
        return None
    return frozenset(word for word in tokenizer.get_vocab() if word.isalpha())


def read_vocabulary(folder: Path) -> frozenset[str] | None:
    """The closed vocabulary of a pipeline folder, without opening its networks; None if open."""
    path = folder / "tokenizer"
    return closed_vocabulary(CLIPTokenizer.from_pretrained(str(path), local_files_only=True))
