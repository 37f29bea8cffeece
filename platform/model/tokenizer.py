"""Texts to token ids, and a WordPiece vocabulary made from captions when a model brings none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from biomedray.artifacts import write_atomic
from biomedray.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MAX_ALPHABET = 1000
_NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


class Tokens:
    """A model's tokenizer that pads only to the longest text of a batch, where that changes nothing."""

    def __init__(self, tokenizer: Any, trim: bool) -> None:
        self._tokenizer = tokenizer
        self._inner = getattr(tokenizer, "tokenizer", None)
        self.context_length = int(tokenizer.context_length)
        pad = self._inner.pad_token_id if self._inner is not None else 0
        self._pad = pad if trim else None

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """N texts -> [n, L] int64 with L the tokens of the longest one, at most the context length."""
        tokens: torch.Tensor = self._tokenizer(list(texts))
        if self._pad is None:
            return tokens
        used = (tokens != self._pad).any(dim=0).nonzero()
        return tokens[:, : max(1, int(used.max()) + 1 if len(used) else 1)]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text with its start and end marks, before any cut."""
        if self._inner is None:
            return [len(self._tokenizer.encode(text)) + 2 for text in texts]
        clean = [self._tokenizer.clean_fn(text) for text in texts]
        if not clean:
            return []
        ids = self._inner(clean, padding=False, truncation=False, verbose=False)["input_ids"]
        return [len(row) for row in ids]


def make_vocabulary(captions: Iterable[str], size: int, folder: Path) -> int:
    """Learn a lower-case WordPiece vocabulary and write it as a Hugging Face tokenizer; its length.

    The same captions in the same order give the same files. The vocabulary may come out smaller
    than ``size`` when the captions hold fewer word pieces.

    Raises:
        UserError: there is no text to learn from.
    """
    from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

    texts = list(captions)
    alphabet = _alphabet(texts)
    if not alphabet:
        raise UserError("the captions hold no text to make a vocabulary from; give model.text_tower")
    inner = [f"##{letter}" for letter in alphabet]
    learner = BertWordPieceTokenizer(lowercase=True)
    learner.train_from_iterator(
        iter(texts),
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        # The learner numbers inner letters in hash order and breaks ties by number, so that two runs
        # would differ; named here, they get fixed numbers.
        special_tokens=[*SPECIAL_TOKENS, *inner],
    )
    words = learner.get_vocab()
    vocabulary = {word: number for number, word in enumerate(sorted(words, key=words.__getitem__))}
    _write(folder, BertWordPieceTokenizer(vocab=vocabulary, lowercase=True))
    return len(vocabulary)


def _alphabet(texts: list[str]) -> list[str]:
    """The most frequent letters after BERT's normalisation, in a fixed order."""
    from tokenizers.normalizers import BertNormalizer

    normalizer = BertNormalizer(lowercase=True)
    counts = Counter[str]()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    letters = [letter for letter in counts if not letter.isspace()]
    return sorted(sorted(letters, key=lambda letter: (-counts[letter], letter))[:_MAX_ALPHABET])


def _write(folder: Path, inner: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    words = inner.get_vocab()
    names = dict(zip(_NAMES, SPECIAL_TOKENS, strict=True))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 1_000_000, **names}
    write_atomic(folder / "tokenizer.json", inner.to_str(pretty=True) + "\n")
    write_atomic(folder / "vocab.txt", "\n".join(sorted(words, key=words.__getitem__)) + "\n")
    write_atomic(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
    write_atomic(folder / "special_tokens_map.json", json.dumps(names, indent=2) + "\n")
