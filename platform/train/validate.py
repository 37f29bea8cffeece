"""Loss and R@1 of the val split, and zero-shot sets, each worker embedding its share."""

from __future__ import annotations

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
    ):
        self._reader = reader
        self._transform = image_transform_v2(PreprocessCfg(**settings), is_train=False)
        self._tokenize = tokenize
        self._skip = skip
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
            scores = self._retrieval(clip, device) | self._zeroshot(clip, device)
        clip.train()
        return scores

    def _retrieval(self, clip: Any, device: str) -> dict[str, float]:
        if self._count == 0:
            return {}
        images, texts = (gathered(part, self._count) for part in self._embed(clip, device))
        return retrieval_scores(images, texts, clip.logit_scale.exp())

    def _embed(self, clip: Any, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        rows, both = iter(self._rows), []
        while batch := [self._row(key) for key in islice(rows, _BATCH)]:
            stacked = torch.stack([image for image, _ in batch]).to(device)
            tokens = self._tokenize([caption for _, caption in batch]).to(device)
            both.append((features.image_features(clip, stacked), features.text_features(clip, tokens)))
        images, texts = zip(*both, strict=True)
        return torch.cat(images), torch.cat(texts)

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


def retrieval_scores(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> dict[str, float]:
    """Loss and R@1 both ways of [n, D] unit features where row i belongs to row i; ties count as misses."""
    to_text, loss_text = _one_way(images, texts, scale)
    to_image, loss_image = _one_way(texts, images, scale)
    return {"val_loss": (loss_text + loss_image) / 2, "val_r1_i2t": to_text, "val_r1_t2i": to_image}


def _one_way(queries: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor) -> tuple[float, float]:
    hits, loss = 0.0, 0.0
    for start in _starts(len(queries)):
        scores = queries[start : start + _BLOCK] @ targets.T
        own = torch.arange(start, start + len(scores), device=scores.device)
        right = scores.gather(1, own[:, None])
        hits += float(((scores >= right).sum(dim=1) == 1).sum())
        loss += float(functional.cross_entropy(scale * scores, own, reduction="sum"))
    return hits / len(queries), loss / len(queries)


def _starts(count: int) -> Iterator[int]:
    return iter(range(0, count, _BLOCK))
