"""Caption lengths in tokens: CLIP's own byte pairs, which open_clip ships, or any tokenizer file at hand.

``n_tokens`` of the pairs table counts words and punctuation marks; how many tokens a model makes of them is
measured here on a sample, since no vocabulary but CLIP's is on every machine.
"""

from __future__ import annotations

import gzip
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from biomedray.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# open_clip's SimpleTokenizer: its pattern, the number of its merges, a mark before and one behind.
_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_MERGES = 49152 - 256 - 2
_MARKS = 2


@dataclass(frozen=True)
class Measure:
    """Token lengths of a sample of captions, start and end mark included."""

    name: str
    lengths: np.ndarray
    per_word: float
    """Tokens for each word or mark of ``n_tokens``."""

    def share_over(self, limit: int) -> float:
        """Share of the captions with more than ``limit`` tokens."""
        return float((self.lengths > limit).mean())

    def error_over(self, limit: int) -> float:
        """Standard error of that share, for captions drawn from many more."""
        share = self.share_over(limit)
        return math.sqrt(share * (1 - share) / len(self.lengths))


def measure(name: str, count: Callable[[Sequence[str]], list[int]], captions: Sequence[str], n_tokens: Sequence[int]) -> Measure:
    """Lengths of the captions by a counter such as ``clip_counter()``."""
    lengths = np.asarray(count(captions)) + _MARKS
    return Measure(name, lengths, float((lengths - _MARKS).sum()) / max(1, sum(n_tokens)))


def clip_counter() -> Callable[[Sequence[str]], list[int]]:
    """Counts CLIP's byte-pair tokens, without marks, as open_clip's SimpleTokenizer gives them."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    spec = importlib.util.find_spec("open_clip")  # found, not imported: that would load torch
    assert spec is not None
    assert spec.origin is not None
    packed = (Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    merges = [(line.split()[0], line.split()[1]) for line in gzip.decompress(packed).decode().split("\n")[1 : _MERGES + 1]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocab = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _counter(tokenizer)


def file_counter(path: Path) -> Callable[[Sequence[str]], list[int]]:
    """Counts the tokens of a tokenizer.json, or of a WordPiece vocab.txt such as PubMedBERT's (lower case).

    Raises:
        UserError: the file is neither.
    """
    from tokenizers import BertWordPieceTokenizer, Tokenizer

    try:
        if path.suffix == ".txt":
            return _counter(BertWordPieceTokenizer(str(path), lowercase=True)._tokenizer)  # noqa: SLF001  # its public face lacks batches without marks
        return _counter(Tokenizer.from_file(str(path)))
    except Exception as error:  # noqa: BLE001  # the library raises a plain Exception
        raise UserError(f"{path}: no tokenizer.json and no WordPiece vocab.txt: {str(error).splitlines()[0]}") from None


def _counter(tokenizer: Tokenizer) -> Callable[[Sequence[str]], list[int]]:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda texts: [len(found.ids) for found in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
