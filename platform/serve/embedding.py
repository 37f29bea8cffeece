"""Many files and texts to vectors, through a service or with a model in this process; what fails is left out with a reason.

entries -> runs of 64 -> several under way (4 with a service, 2 here) -> writer, in the order of the entries
               +-> an entry that is refused -> rejects, and the rest of its run again
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from biomedray import pixels
from biomedray.errors import WorkError
from biomedray.serve.client import AsyncClient, RefusedError
from biomedray.serve.entries import Entry, Kind, Left
from biomedray.serve.inputs import ImageSource, image_bytes
from biomedray.serve.limits import Limits
from biomedray.serve.problems import Problem
from biomedray.serve.writers import open_writer, write_left

Vectors = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Outcome = NDArray[np.float32] | Left
Run = list[Entry | Left]
Done = Callable[[int], None]
_RUN = 64
_RUN_BYTES = 64 * 1024 * 1024
_UNDER_WAY = 4
_UNDER_WAY_HERE = 2
# One's own files on one's own machine: bounded by memory, not by what strangers may send.
_OWN_LIMITS = Limits(image_bytes=1 << 30, image_pixels=pixels.MAX_PIXELS)


@dataclass(frozen=True)
class Embedded:
    """What came of a run."""

    images: int
    texts: int
    left: Sequence[Left]
    rejects: Path


class Embedder(Protocol):
    """Who computes the vectors."""

    dim: int
    about: dict[str, str]

    async def embed(self, kind: Kind, entries: Sequence[Entry]) -> list[Outcome]:
        """A vector [d] for each entry, or why there is none."""


class Remote:
    """A service."""

    def __init__(self, client: AsyncClient, info: dict[str, dict[str, object]]) -> None:
        model = info["model"]
        self._client = client
        self.dim = int(str(model["embed_dim"]))
        self.about = {"model": str(model["name"]), "fingerprint": str(model["fingerprint"])}

    async def embed(self, kind: Kind, entries: Sequence[Entry]) -> list[Outcome]:
        """As ``Embedder``; a refused entry is taken out and the others are sent again."""
        found: list[Outcome | bytes | str] = list(await asyncio.to_thread(lambda: [_value(entry) for entry in entries]))
        while left := [number for number, value in enumerate(found) if isinstance(value, bytes | str)]:
            try:
                vectors = await self._ask(kind, [found[number] for number in left])
            except RefusedError as error:
                if error.item is None:
                    raise
                entry = entries[left[error.item]]
                found[left[error.item]] = Left(entry.name, kind, error.code or "refused", error.detail)
            else:
                for number, vector in zip(left, vectors, strict=True):
                    found[number] = vector
        return [value for value in found if not isinstance(value, bytes | str)]

    async def _ask(self, kind: Kind, values: Sequence[object]) -> Vectors:
        if kind == "text":
            return await self._client.embed_texts([value for value in values if isinstance(value, str)])
        return await self._client.embed_images([value for value in values if isinstance(value, bytes)])


class EncoderHere(Protocol):
    """What is needed of biomedray.model.encoder.Encoder."""

    name: str
    embed_dim: int
    fingerprint: str

    def encode_images(self, images: Sequence[bytes | Pixels]) -> Vectors:
        """N image files' bytes, or their pixels -> [n, d]."""

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """N texts -> [n, d]."""


class Local:
    """A model in this process, in threads: one run is decoded while another one is with the model."""

    def __init__(self, encoder: EncoderHere) -> None:
        self._encoder = encoder
        self.dim = encoder.embed_dim
        self.about = {"model": encoder.name, "fingerprint": encoder.fingerprint}

    async def embed(self, kind: Kind, entries: Sequence[Entry]) -> list[Outcome]:
        """As ``Embedder``."""
        if kind == "text":
            return list(await asyncio.to_thread(self._encoder.encode_texts, [str(entry.value) for entry in entries]))
        return await asyncio.to_thread(self._images, entries)

    def _images(self, entries: Sequence[Entry]) -> list[Outcome]:
        ready = [_checked(entry) for entry in entries]
        try:
            vectors = iter(self._encode([value for value in ready if not isinstance(value, Left)]))
        except pixels.PixelError:
            return [self._one(entry, value) for entry, value in zip(entries, ready, strict=True)]
        return [value if isinstance(value, Left) else next(vectors) for value in ready]

    def _one(self, entry: Entry, value: bytes | Pixels | Left) -> Outcome:
        if isinstance(value, Left):
            return value
        try:
            return self._encode([value])[0]
        except pixels.PixelError as error:
            return Left(entry.name, entry.kind, error.reason.value, str(error))

    def _encode(self, images: Sequence[bytes | Pixels]) -> Sequence[NDArray[np.float32]]:
        return list(self._encoder.encode_images(images)) if images else []


def embed_remotely(entries: Sequence[Entry | Left], client: AsyncClient, out: Path, done: Done) -> Embedded:
    """Embed through a service; ``done`` is told how many entries are finished.

    Raises:
        WorkError: the service can't be asked, stays busy, or took none of the entries.
    """

    async def run() -> Embedded:
        async with client:
            return await _embed(entries, Remote(client, await client.info()), out, done, _UNDER_WAY)

    return asyncio.run(run())


def embed_here(entries: Sequence[Entry | Left], encoder: EncoderHere, out: Path, done: Done) -> Embedded:
    """Embed with a model in this process; as ``embed_remotely``."""
    return asyncio.run(_embed(entries, Local(encoder), out, done, _UNDER_WAY_HERE))


async def _embed(entries: Sequence[Entry | Left], embedder: Embedder, out: Path, done: Done, under_way: int) -> Embedded:
    left: list[Left] = []
    counts = {"image": 0, "text": 0}
    with open_writer(out, embedder.dim, embedder.about) as writer:
        async for run, outcomes in _in_order(_runs(entries), embedder, under_way):
            kept = [(entry, outcome) for entry, outcome in zip(run, outcomes, strict=True) if not isinstance(outcome, Left)]
            left += [outcome for outcome in outcomes if isinstance(outcome, Left)]
            if kept:
                taken = [entry for entry, _ in kept if isinstance(entry, Entry)]
                writer.add(taken, np.stack([vector for _, vector in kept]))
                for entry in taken:
                    counts[entry.kind] += 1
            done(len(run))
        rejects = write_left(out, left)
        if not sum(counts.values()):
            raise WorkError(f"nothing could be embedded: {left[0].name}: {left[0].detail}; all reasons are in {rejects}")
    return Embedded(counts["image"], counts["text"], left, rejects)


async def _in_order(runs: Iterable[Run], embedder: Embedder, under_way: int) -> AsyncIterator[tuple[Run, list[Outcome]]]:
    """Each run with what came of it, in order, while the next ones are under way."""
    waiting: deque[tuple[Run, asyncio.Task[list[Outcome]]]] = deque()
    try:
        for run in runs:
            waiting.append((run, asyncio.create_task(_outcomes(run, embedder))))
            if len(waiting) == under_way:
                first, task = waiting.popleft()
                yield first, await task
        while waiting:
            first, task = waiting.popleft()
            yield first, await task
    finally:
        for _, task in waiting:
            task.cancel()


async def _outcomes(run: Run, embedder: Embedder) -> list[Outcome]:
    entries = [entry for entry in run if isinstance(entry, Entry)]
    found = iter(await embedder.embed(entries[0].kind, entries) if entries else [])
    return [entry if isinstance(entry, Left) else next(found) for entry in run]


def _runs(entries: Iterable[Entry | Left]) -> Iterator[Run]:
    """Neighbours of one kind, few enough in number and bytes to be held."""
    run: Run = []
    size = 0
    for entry in entries:
        more = entry.value.stat().st_size if isinstance(entry, Entry) and isinstance(entry.value, Path) else 0
        if run and (len(run) == _RUN or run[0].kind != entry.kind or size + more > _RUN_BYTES):
            yield run
            run, size = [], 0
        run.append(entry)
        size += more
    if run:
        yield run


def _value(entry: Entry) -> bytes | str | Left:
    if isinstance(entry.value, str):
        return entry.value
    try:
        return entry.value.read_bytes()
    except OSError as error:
        return Left(entry.name, entry.kind, "unreadable", str(error.strerror))


def _checked(entry: Entry) -> bytes | Pixels | Left:
    """The file's bytes, or the pixels of a DICOM file, as the service takes them."""
    data = _value(entry)
    if isinstance(data, Left):
        return data
    try:
        return image_bytes(ImageSource(data), _OWN_LIMITS)
    except pixels.PixelError as error:
        return Left(entry.name, entry.kind, error.reason.value, str(error))
    except Problem as problem:
        return Left(entry.name, entry.kind, problem.code, str(problem.detail))
