"""Loss and R@1 of the val split, and zero-shot sets, each worker embedding its share.

Captions with the same text are gold for each other, and any other candidate that scores as high as the best gold one
makes a miss, as evaluation counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import distributed
from torch.nn import functional

from biomedray import pixels
from biomedray.errors import WorkError
from biomedray.model import features
from biomedray.model.loss import world_size
from biomedray.train.presets import ZeroShotSet
from biomedray.train.rows import PairsReader
from biomedray.train.step import Tokenize
from biomedray.train.zeroshot import ZeroShot

_BATCH = 64
_BLOCK = 1024
_MIB = 1 << 20


class Validation:
    """The val split of a run; preprocessed images stay in memory if they fit."""

    def __init__(
        self,
        reader: PairsReader,
        limit: int,
        settings: dict[str, Any],
        tokenize: Tokenize,
        cache_mb: int,
        skip: Callable[[str, str], None] | None = None,
        zeroshot: Mapping[str, ZeroShotSet] | None = None,
        bf16: bool = False,
    ):
        self._reader = reader
        self._transform = image_transform_v2(PreprocessCfg(**settings), is_train=False)
        self._tokenize = tokenize
        self._skip = skip
        self._bf16 = bf16
        self._room = cache_mb * _MIB
        self._kept: dict[tuple[int, int], tuple[torch.Tensor, str]] = {}
        rows = [(group, row) for group, size in enumerate(self._reader.sizes) for row in range(int(size))][:limit]
        self._count = len(rows)
        self._rows = [rows[i] for i in own_share(len(rows))]
        self._zeroshot = ZeroShot(zeroshot or {}, self._pixels, tokenize, gathered, own_share)

    def __call__(self, clip: Any, device: str) -> dict[str, float]:
        """``val_loss`` (InfoNCE over all val pairs at once), ``val_r1_i2t``, ``val_r1_t2i``, ``val_zeroshot_...`` of each set.

        Without val pairs only the sets are scored.
        """
        clip.eval()
        with torch.inference_mode():
            scores = self._retrieval(clip, device)
            with self._precision(device):
                scores |= self._zeroshot(clip, device)
        clip.train()
        return scores

    def _precision(self, device: str) -> torch.autocast:
        """The forward pass runs in the precision of the training."""
        return torch.autocast(device.split(":", maxsplit=1)[0], dtype=torch.bfloat16, enabled=self._bf16)

    def _retrieval(self, clip: Any, device: str) -> dict[str, float]:
        if self._count == 0:
            return {}
        with self._precision(device):
            parts = self._embed(clip, device)
        images, texts, names = (gathered(part, self._count) for part in parts)
        return retrieval_scores(images, texts, clip.logit_scale.exp(), names)

    def _embed(self, clip: Any, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[n, D] features of pictures and captions, and [n] numbers of the captions: of one text one number."""
        rows, both = iter(self._rows), []
        while batch := [self._row(key) for key in islice(rows, _BATCH)]:
            stacked = torch.stack([image for image, _ in batch]).to(device)
            captions = [caption for _, caption in batch]
            tokens = self._tokenize(captions).to(device)
            names = torch.tensor([_number(caption) for caption in captions], device=device)
            both.append((features.image_features(clip, stacked), features.text_features(clip, tokens), names))
        images, texts, names = (torch.cat(parts) for parts in zip(*both, strict=True))
        return images, texts, names

    def _row(self, key: tuple[int, int]) -> tuple[torch.Tensor, str]:
        if key in self._kept:
            return self._kept[key]
        row = self._reader.row(*key)
        pair_id, data, caption = row["pair_id"], row["image"], row["caption"]
        try:
            image = self._pixels(data)
        except pixels.PixelError as error:
            if self._skip is None:
                raise WorkError(f"pair {pair_id}: its image cannot be decoded ({error}); ingest the articles again") from None
            self._skip(pair_id, str(error))
            image = self._transform(Image.new("RGB", (8, 8)))  # a miss, so that scores stay over the same pairs
        if image.nbytes <= self._room:
            self._room -= image.nbytes
            self._kept[key] = (image, caption)
        return image, caption

    def _pixels(self, data: bytes | NDArray[np.uint8]) -> torch.Tensor:
        picture = pixels.decode(data)[0] if isinstance(data, bytes) else Image.fromarray(data).convert("RGB")
        found: torch.Tensor = self._transform(picture)
        return found


def own_share(count: int) -> list[int]:
    """Rows r, r + world, ... of worker r; every worker takes equally many, the last ones go round to the beginning again."""
    rank = distributed.get_rank() if world_size() > 1 else 0
    return [(rank + i * world_size()) % count for i in range(-(-count // world_size()))]


def gathered(part: torch.Tensor, count: int) -> torch.Tensor:
    """Every worker's rows of a share, in the order of the whole."""
    if world_size() == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(world_size())]
    distributed.all_gather(parts, part.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)[:count]


def retrieval_scores(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, names: torch.Tensor | None = None
) -> dict[str, float]:
    """Loss and R@1 both ways of [n, D] unit features where row i belongs to row i; ties count as misses.

    Rows with the same of ``names`` [n] are gold for each other in R@1; the loss is that of training, which knows no twins.
    """
    names = torch.arange(len(images), device=images.device) if names is None else names
    to_text, loss_text = _one_way(images, texts, scale, names)
    to_image, loss_image = _one_way(texts, images, scale, names)
    return {"val_loss": (loss_text + loss_image) / 2, "val_r1_i2t": to_text, "val_r1_t2i": to_image}


def _one_way(queries: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor, names: torch.Tensor) -> tuple[float, float]:
    hits, loss = 0.0, 0.0
    for start in _starts(len(queries)):
        scores = queries[start : start + _BLOCK] @ targets.T
        own = torch.arange(start, start + len(scores), device=scores.device)
        loss += float(functional.cross_entropy(scale * scores, own, reduction="sum"))
        gold = names[own, None] == names
        best = scores.masked_fill(~gold, -torch.inf).amax(dim=1, keepdim=True)
        beaten = ((scores >= best) & ~gold).any(dim=1) | best[:, 0].isnan()
        hits += float((~beaten).sum())
    return hits / len(queries), loss / len(queries)


def _number(caption: str) -> int:
    """63 bits of a caption's hash."""
    return int.from_bytes(hashlib.blake2b(caption.encode(), digest_size=8).digest()) >> 1


def _starts(count: int) -> Iterator[int]:
    return iter(range(0, count, _BLOCK))
