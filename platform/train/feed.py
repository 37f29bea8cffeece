r"""Batches of a pairs artifact, read by position: the same global batches at any number of workers.

positions -> (row group, row) -> Parquet -> reduced image (kept if it fits) -> seeded crop -> uint8 batch
   order.py                      \------------- decode threads, some batches ahead -------------/
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from biomedray.errors import UserError, WorkError
from biomedray.model.preprocess import Crop, Pixels, random_crop, reduce
from biomedray.pixels import PixelError
from biomedray.records import Split
from biomedray.train.order import EpochOrder, generator
from biomedray.train.plan import BatchSpec
from biomedray.train.presets import DataConfig

_COLUMNS = ["pair_id", "image", "caption"]
_MIB = 1 << 20


@dataclass(frozen=True)
class Batch:
    """This worker's share of a global batch."""

    spec: BatchSpec
    pixels: torch.Tensor
    """[n, S, S, 3] uint8."""
    captions: list[str]


class PairsReader:
    """Rows of one split by (row group, row); the row groups used last stay in memory."""

    def __init__(self, pairs: Path, split: Split, keep: int = 32) -> None:
        self._files = [pq.ParquetFile(path) for path in split_files(pairs, split)]
        self._groups = [(file, index) for file in self._files for index in range(file.num_row_groups)]
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._keep = keep
        self._lock = threading.Lock()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each row group."""
        return tuple(file.metadata.row_group(index).num_rows for file, index in self._groups)

    def row(self, group: int, row: int) -> tuple[str, bytes, str]:
        """Pair id, image bytes and caption of a row."""
        table = self._table(group)
        pair_id, image, caption = (table.column(name)[row].as_py() for name in _COLUMNS)
        return pair_id, image, caption

    def captions(self, limit: int) -> Iterator[str]:
        """The first ``limit`` captions in the order of the files."""
        for file, index in self._groups:
            column = file.read_row_group(index, columns=["caption"]).column("caption").to_pylist()
            yield from column[:limit]
            limit -= len(column)
            if limit <= 0:
                return

    def _table(self, group: int) -> Any:
        with self._lock:
            if group not in self._kept:
                file, index = self._groups[group]
                self._kept[group] = file.read_row_group(index, columns=_COLUMNS, use_threads=False).combine_chunks()
                if len(self._kept) > self._keep:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(group)
            return self._kept[group]


def split_files(pairs: Path, split: Split) -> list[Path]:
    """Parquet files of a split, in order of name."""
    return sorted((pairs / "data" / f"split={split}").glob("*.parquet"))


def count_rows(pairs: Path, split: Split) -> int:
    """Pairs of a split, from the files' own footers.

    Raises:
        UserError: a file is no Parquet file or lacks a column.
    """
    total = 0
    for path in split_files(pairs, split):
        try:
            metadata = pq.read_metadata(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
        missing = set(_COLUMNS) - set(metadata.schema.to_arrow_schema().names)
        if missing:
            raise UserError(f"{path}: lacks the columns {', '.join(sorted(missing))}")
        total += metadata.num_rows
    return total


class ReducedImages:
    """Reduced images and captions kept in memory until the space is used up; nothing is ever thrown out."""

    def __init__(self, limit_bytes: int) -> None:
        self._kept: dict[tuple[int, int], tuple[Pixels, str]] = {}
        self._free = limit_bytes

    def get(self, key: tuple[int, int]) -> tuple[Pixels, str] | None:
        """The image and caption of a row, if kept."""
        return self._kept.get(key)

    def put(self, key: tuple[int, int], image: Pixels, caption: str) -> None:
        """Keep a row's image and caption if there is room."""
        size = image.nbytes + len(caption)
        if size <= self._free and key not in self._kept:
            self._free -= size
            self._kept[key] = (image, caption)


class Feed:
    """Train batches of one worker, prepared ahead of use; a context manager that ends its threads."""

    def __init__(self, pairs: Path, config: DataConfig, size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.reader = PairsReader(pairs, "train", keep=2 * config.window_row_groups)
        self._crop = Crop(size, config.crop_scale, config.crop_ratio)
        self._config = config
        self._seed = seed
        self._share = (rank, world)
        self._images = ReducedImages(config.cache_mb * _MIB)
        self._order: tuple[int, EpochOrder] | None = None
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="decode")

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def batches(self, specs: Iterator[BatchSpec]) -> Iterator[Batch]:
        """The batches that the specs name, in their order.

        Raises:
            WorkError: an image of the artifact can't be decoded; the line names the pair.
        """
        ahead: deque[tuple[BatchSpec, list[Future[tuple[Pixels, str]]]]] = deque()
        for spec in specs:
            ahead.append((spec, self._submit(spec)))
            if len(ahead) > self._config.prefetch_batches:
                yield _collect(*ahead.popleft())
        while ahead:
            yield _collect(*ahead.popleft())

    def _submit(self, spec: BatchSpec) -> list[Future[tuple[Pixels, str]]]:
        start, stop = share(spec, *self._share)
        positions = range(start, stop)
        rows = self._epoch_order(spec.epoch).rows(start, stop)
        return [self._pool.submit(self._sample, spec.epoch, at, row) for at, row in zip(positions, rows, strict=True)]

    def _epoch_order(self, epoch: int) -> EpochOrder:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, EpochOrder(self.reader.sizes, self._config.window_row_groups, self._seed, epoch)
        return self._order[1]

    def _sample(self, epoch: int, position: int, key: tuple[int, int]) -> tuple[Pixels, str]:
        image, caption = self._images.get(key) or self._read(key)
        # The leading 1 keeps crops apart from the order, which draws from (seed, epoch).
        return random_crop(image, self._crop, generator(1, self._seed, epoch, position)), caption

    def _read(self, key: tuple[int, int]) -> tuple[Pixels, str]:
        pair_id, data, caption = self.reader.row(*key)
        try:
            image = reduce(data, self._crop.reduced_side)
        except PixelError as error:
            raise WorkError(f"pair {pair_id}: its image cannot be decoded ({error}); ingest the articles again") from None
        self._images.put(key, image, caption)
        return image, caption


def share(spec: BatchSpec, rank: int, world: int) -> tuple[int, int]:
    """First and last-plus-one position of a worker's share of a global batch."""
    size = (spec.stop - spec.start) // world
    return spec.start + rank * size, spec.start + (rank + 1) * size


def _collect(spec: BatchSpec, samples: list[Future[tuple[Pixels, str]]]) -> Batch:
    images, captions = zip(*(sample.result() for sample in samples), strict=True)
    return Batch(spec, torch.from_numpy(np.stack(images)), list(captions))
