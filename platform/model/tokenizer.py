"""Texts to token ids, and a WordPiece vocabulary made from captions when a model brings none."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from biomedray.artifacts import write_atomic
from biomedray.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MAX_ALPHABET = 1000
_NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


@dataclass(frozen=True, slots=True)
class Tokenized:
    """One text as the model reads it."""

    ids: npt.NDArray[np.int64]
    """[L] token ids with start and end marks, at most the context length, not padded."""
    count: int
    """Tokens with the marks before any cut."""


class Tokens:
    """A model's tokenizer that pads only to the longest text of a batch, where that changes nothing.

    It may be called by several threads at a time: the Hugging Face tokenizers that it reads with are copies whose settings
    never change, and what can't be copied is called by one thread at a time.
    """

    def __init__(self, tokenizer: Any, trim: bool) -> None:
        self._tokenizer = tokenizer
        self._inner = getattr(tokenizer, "tokenizer", None)
        self.context_length = int(tokenizer.context_length)
        pad = self._inner.pad_token_id if self._inner is not None else 0
        self._pad = pad if trim else None
        self._fill = int(pad or 0)
        self._lock = threading.Lock()
        self._fast = _copies(tokenizer, self.context_length)

    @property
    def fixed_length(self) -> int | None:
        """The one length that the text tower takes, None if it takes any."""
        return self.context_length if self._pad is None else None

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """N texts -> [n, L] int64 with L the tokens of the longest one, at most the context length."""
        return self.stack([row.ids for row in self.rows(texts)])

    def rows(self, texts: Sequence[str]) -> list[Tokenized]:
        """Each text's tokens, and how many they were before any cut."""
        if self._fast is not None:
            return self._by_copies([self._tokenizer.clean_fn(text) for text in texts], *self._fast)
        if self._inner is None and getattr(self._tokenizer, "reduction_fn", None) is None:
            return [self._plain(text) for text in texts]
        return self._locked(texts)

    def stack(self, ids: Sequence[npt.NDArray[np.int64]]) -> torch.Tensor:
        """N texts' token ids, padded to the longest of them where that changes nothing -> [n, L] int64."""
        length = self.context_length if self._pad is None else max((len(row) for row in ids), default=1)
        tokens = np.full((len(ids), length), self._fill, np.int64)
        for number, row in enumerate(ids):
            tokens[number, : len(row)] = row
        return torch.from_numpy(tokens)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text with its start and end marks, before any cut."""
        return [row.count for row in self.rows(texts)]

    def _by_copies(self, texts: list[str], whole: Tokenizer, cut: Tokenizer) -> list[Tokenized]:
        found = [encoding.ids for encoding in whole.encode_batch_fast(texts)]
        rows = [Tokenized(np.array(ids, np.int64), len(ids)) for ids in found]
        long = [number for number, row in enumerate(rows) if row.count > self.context_length]
        for number, encoding in zip(long, cut.encode_batch_fast([texts[number] for number in long]), strict=True):
            rows[number] = Tokenized(np.array(encoding.ids, np.int64), rows[number].count)
        return rows

    def _locked(self, texts: Sequence[str]) -> list[Tokenized]:
        """By open_clip's own call, whatever the tokenizer."""
        with self._lock:
            tokens: torch.Tensor = self._tokenizer(list(texts))
            counts = self._counts(texts)
        rows = tokens.numpy().astype(np.int64)
        return [Tokenized(_without_padding(row, self._pad), count) for row, count in zip(rows, counts, strict=True)]

    def _plain(self, text: str) -> Tokenized:
        """By CLIP's own BPE, cut as its ``__call__`` does."""
        ids = [self._tokenizer.sot_token_id, *self._tokenizer.encode(text), self._tokenizer.eot_token_id]
        kept = ids if len(ids) <= self.context_length else [*ids[: self.context_length - 1], ids[-1]]
        return Tokenized(np.array(kept, np.int64), len(ids))

    def _counts(self, texts: Sequence[str]) -> list[int]:
        if self._inner is None:
            return [len(self._tokenizer.encode(text)) + 2 for text in texts]
        clean = [self._tokenizer.clean_fn(text) for text in texts]
        ids = self._inner(clean, padding=False, truncation=False, verbose=False)["input_ids"] if clean else []
        return [len(row) for row in ids]


def _copies(tokenizer: Any, context_length: int) -> tuple[Tokenizer, Tokenizer] | None:
    """Of a Hugging Face tokenizer that open_clip calls in the usual way: one that cuts nothing, one that cuts at the context."""
    inner = getattr(tokenizer, "tokenizer", None)
    backend = getattr(inner, "backend_tokenizer", None)
    usual = not getattr(tokenizer, "tokenizer_mode", "") and not getattr(tokenizer, "strip_sep_token", False)
    sides = {getattr(inner, "padding_side", "right"), getattr(inner, "truncation_side", "right")}
    if not isinstance(backend, Tokenizer) or not usual or sides != {"right"}:
        return None
    whole, cut = Tokenizer.from_str(backend.to_str()), Tokenizer.from_str(backend.to_str())
    for copy in (whole, cut):
        copy.no_padding()
        copy.no_truncation()
    cut.enable_truncation(context_length)
    return whole, cut


def _without_padding(row: npt.NDArray[np.int64], pad: int | None) -> npt.NDArray[np.int64]:
    if pad is None:
        return row
    used = np.flatnonzero(row != pad)
    return row[: max(1, int(used[-1]) + 1 if len(used) else 1)]


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
