r"""Batches of a pairs artifact, read by position: the same global batches at any number of workers.

positions -> (row group, row) -> Parquet -> reduced image (kept if it fits) -> seeded crop -> uint8 batch -> device
   order.py        rows.py read ahead       \--------- decode threads, some batches ahead ---------/    side stream

Or the threads only cut out what the crop reaches, and the device computes the crop, the same to the bit (tray.py).
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from biomedray import pixels
from biomedray.errors import WorkError
from biomedray.model.preprocess import Crop, Pixels, reduce, shrink
from biomedray.model.resample import Canvases, resample
from biomedray.train.order import EpochOrder, Rows, generator
from biomedray.train.plan import BatchSpec
from biomedray.train.presets import DataConfig
from biomedray.train.rows import PairsReader, RowIndex
from biomedray.train.source import Source
from biomedray.train.texts import Texts, box_of, columns_for, draw, texts_of
from biomedray.train.tray import Crops, Pictures, Regions, Tray

BROKEN = "broken.jsonl"
_MIB = 1 << 20
# So many rows in a row that can't be decoded are no accident.
_SUBSTITUTES = 16
# Batches, at most, whose row groups are asked for before they are decoded.
_MOST_AHEAD = 256
_Key = tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """This worker's share of a global batch."""

    spec: BatchSpec
    pictures: Pictures
    """What is sent to the device."""
    captions: list[str]
    pair_ids: list[str]

    @property
    def pixels(self) -> torch.Tensor:
        """[n, S, S, 3] uint8; of crops that the device computes once they are there (``on_device``)."""
        assert isinstance(self.pictures, torch.Tensor), "not on its device yet"
        return self.pictures


@dataclass(frozen=True)
class FeedSettings:
    """What a feed needs to know beside the rows."""

    data: DataConfig
    size: int
    """Side S of a picture in pixels."""
    seed: int
    rank: int = 0
    world: int = 1
    pin: bool = False
    """Page-locked memory, from which a GPU fetches while it computes."""
    broken: Path | None = None
    """File that names pictures which were skipped."""
    device_crops: bool = False
    """Whether the crops are left to the device."""


class ReducedImages:
    """Reduced images and texts kept in memory until the space is used up; nothing is ever thrown out."""

    def __init__(self, limit_bytes: int) -> None:
        self._kept: dict[_Key, tuple[Pixels, Texts]] = {}
        self._free = limit_bytes

    def __contains__(self, key: _Key) -> bool:
        return key in self._kept

    def get(self, key: _Key) -> tuple[Pixels, Texts] | None:
        """The image and texts of a row, if kept."""
        return self._kept.get(key)

    def put(self, key: _Key, image: Pixels, texts: Texts) -> None:
        """Keep a row's image and texts if there is room."""
        size = image.nbytes + len(texts.caption) + sum(map(len, texts.citances))
        if size <= self._free and key not in self._kept:
            self._free -= size
            self._kept[key] = (image, texts)


@dataclass(frozen=True)
class _Part:
    """This worker's part of a batch: positions [n] and rows [n, 2]."""

    spec: BatchSpec
    positions: Rows
    rows: Rows


@dataclass(frozen=True)
class _Coming:
    """A batch under way."""

    spec: BatchSpec
    pictures: Future[Pictures]
    texts: list[Future[Texts]]

    def batch(self) -> Batch:
        """When it is whole."""
        found = [one.result() for one in self.texts]
        return Batch(self.spec, self.pictures.result(), [texts.caption for texts in found], [texts.pair_id for texts in found])


class Feed:
    """Train batches of one worker, prepared ahead of use; a context manager that ends its threads."""

    def __init__(self, source: Source, index: RowIndex, settings: FeedSettings) -> None:
        data = settings.data
        keep = 2 * data.window_row_groups
        self.reader = PairsReader(source, index, columns_for(data), keep, data.read_threads)
        self._settings = settings
        self._crop = Crop(settings.size, data.crop_scale, data.crop_ratio, data.crop_relative)
        self._images = ReducedImages(data.cache_mb * _MIB)
        self._orders: dict[int, EpochOrder] = {}
        self._pool = ThreadPoolExecutor(data.threads, thread_name_prefix="decode")
        self._note = threading.Lock()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.reader.__exit__()

    def batches(self, specs: Iterator[BatchSpec]) -> Iterator[Batch]:
        """The batches that the specs name, in their order.

        Raises:
            WorkError: an image of the artifact can't be decoded (the line names the pair), or a file can't be read.
        """
        ahead: deque[_Coming] = deque()
        for part in self._announced(specs):
            ahead.append(self._submit(part))
            if len(ahead) > self._settings.data.prefetch_batches:
                yield ahead.popleft().batch()
        while ahead:
            yield ahead.popleft().batch()

    def _announced(self, specs: Iterator[BatchSpec]) -> Iterator[_Part]:
        """Parts of the batches, given out when the row groups of some later batches have been asked for."""
        waiting: deque[_Part] = deque()
        for spec in specs:
            part = self._part(spec)
            keys = [(int(group), int(row)) for group, row in part.rows]
            missing = dict.fromkeys(key[0] for key in keys if key not in self._images)
            self.reader.want((key[0] for key in keys), missing)
            waiting.append(part)
            if len(waiting) > self._lead(spec):
                yield waiting.popleft()
        yield from waiting

    def _lead(self, spec: BatchSpec) -> int:
        """Batches in half a window: by then its row groups have been read for some time, and memory holds both halves."""
        sizes = self.reader.sizes
        half = self._settings.data.window_row_groups * float(sizes.mean()) / 2
        return min(_MOST_AHEAD, round(half / (spec.stop - spec.start)))

    def _part(self, spec: BatchSpec) -> _Part:
        positions, rows = self._order(spec.epoch).arranged(spec.start, spec.stop)
        mine = slice(*share(len(rows), self._settings.rank, self._settings.world))
        return _Part(spec, positions[mine], rows[mine])

    def _order(self, epoch: int) -> EpochOrder:
        if epoch not in self._orders:
            self._orders = {old: order for old, order in self._orders.items() if old == epoch - 1}
            window = self._settings.data.window_row_groups
            self._orders[epoch] = EpochOrder(self.reader.sizes, window, self._settings.seed, epoch)
        return self._orders[epoch]

    def _submit(self, part: _Part) -> _Coming:
        tray = (Regions if self._settings.device_crops else Crops)(len(part.rows), self._crop, self._settings.pin)
        pairs = zip(part.positions.tolist(), part.rows.tolist(), strict=True)
        work = [self._pool.submit(self._sample, part.spec, at, (row[0], row[1]), tray, i) for i, (at, row) in enumerate(pairs)]
        # It waits for work that the pool has begun or will begin before it, so one thread is enough.
        return _Coming(part.spec, self._pool.submit(_collect, work, tray), work)

    def _sample(self, spec: BatchSpec, position: int, key: _Key, tray: Tray, number: int) -> Texts:
        """Put the picture of a sample in its place; its id, and the text drawn for it as the caption."""
        try:
            image, texts = self._reduced(spec, position, key)
        finally:
            self.reader.release(key[0])
        seed, epoch = self._settings.seed, spec.epoch
        # The leading numbers keep crops and texts apart from the order, which draws from (seed, epoch).
        tray.put(number, image, (1, seed, epoch, position))
        data = self._settings.data
        if data.text == "caption" or not texts.citances:
            return texts
        return replace(texts, caption=draw(texts, data, generator(2, seed, epoch, position)))

    def _reduced(self, spec: BatchSpec, position: int, key: _Key) -> tuple[Pixels, Texts]:
        try:
            return self._images.get(key) or self._read(key)
        except _BrokenImageError as error:
            if self._settings.data.broken_images == "stop":
                hint = "ingest the articles again, or go on without it: --set data.broken_images=skip"
                raise WorkError(f"{error}; {hint}") from None
            self._record(error)
        for other in self._order(spec.epoch).substitutes(position, spec.start, spec.stop, _SUBSTITUTES):
            try:
                return self._images.get(other) or self._read(other)
            except _BrokenImageError as error:
                self._record(error)
        raise WorkError(f"{_SUBSTITUTES} pictures in a row cannot be decoded; ingest the articles again")

    def _read(self, key: _Key) -> tuple[Pixels, Texts]:
        row = self.reader.row(*key)
        try:
            image = _reduce(row, self._crop.reduced_side)
        except pixels.PixelError as error:
            raise _BrokenImageError(row["pair_id"], str(error)) from None
        texts = texts_of(row)
        self._images.put(key, image, texts)
        return image, texts

    def _record(self, error: _BrokenImageError) -> None:
        if self._settings.broken is not None:
            with self._note:
                record_broken(self._settings.broken, error.pair_id, error.detail)


def record_broken(file: Path, pair_id: str, detail: str) -> None:
    """Name a picture that was skipped."""
    with file.open("a") as lines:
        lines.write(json.dumps({"pair_id": pair_id, "detail": detail}) + "\n")


class _BrokenImageError(Exception):
    def __init__(self, pair_id: str, detail: str) -> None:
        super().__init__(f"pair {pair_id}: its image cannot be decoded ({detail})")
        self.pair_id, self.detail = pair_id, detail


def _reduce(row: dict[str, Any], short_side: int) -> Pixels:
    if (box := box_of(row)) is None:
        return reduce(row["image"], short_side)
    image, _ = pixels.decode(row["image"])
    left, top, right, bottom = (round(value) for value in box)
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        raise _BrokenImageError(row["pair_id"], f"its panel {left},{top},{right},{bottom} is not within the picture")
    return shrink(image.crop((left, top, right, bottom)), short_side)


def share(count: int, rank: int, world: int) -> tuple[int, int]:
    """First and last-plus-one of a worker's share of ``count`` samples."""
    size = count // world
    return rank * size, (rank + 1) * size


def on_device(batches: Iterator[Batch], device: str) -> Iterator[Batch]:
    """The batches with their pictures on the device, cropped; a GPU does that for the next one while it computes on this."""
    if not device.startswith("cuda"):
        yield from (replace(batch, pictures=_there(batch.pictures, device)) for batch in batches)
        return
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own signature
    before: tuple[Batch, Any] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            sent = _there(batch.pictures, device)
            there = stream.record_event()
        if before is not None:
            yield _arrived(*before)
        before = (replace(batch, pictures=sent), there)
    if before is not None:
        yield _arrived(*before)


def _there(pictures: Pictures, device: str) -> torch.Tensor:
    """[n, S, S, 3] uint8 on the device."""
    if isinstance(pictures, Canvases):
        return resample(pictures.to(device))
    return pictures.to(device, non_blocking=True)


def _arrived(batch: Batch, there: Any) -> Batch:
    current = torch.cuda.current_stream(batch.pixels.device)
    current.wait_event(there)
    batch.pixels.record_stream(current)  # its memory is not given to others before the step is done with it
    return batch


def _collect(work: list[Future[Texts]], tray: Tray) -> Pictures:
    for one in work:
        one.exception()  # whoever asks for the texts is told
    return tray.pictures()
