r"""Samples to vectors: pictures are decoded in threads beside the model, a bounded number of batches ahead.

    samples -> decode (threads, PREFETCH batches ahead) -> stack -> model (one lane; two on a GPU) -> [n, D]
                    \-> unreadable: rejects

On a GPU the second lane copies a batch over and queues its kernels while the first waits for its results. Several
stretches may be embedded at a time (by threads of the caller), so that the model has work where one begins and
another ends. A caption that several samples of a stretch share is embedded once, and captions of like length together.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from biomedray.errors import UserError
from biomedray.evaluate import vectors
from biomedray.evaluate.models import Model, Vectors
from biomedray.evaluate.samples import Sample
from biomedray.model.malloc import keep_freed
from biomedray.pixels import PixelError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PREFETCH = 2


@dataclass(frozen=True)
class Options:
    """How to embed; none of it but ``precision`` changes what comes out beyond rounding."""

    batch_size: int = 64
    """Pictures, or texts, that the model sees at once."""
    precision: str = "float32"
    """What the towers compute in: float32, or bfloat16 or float16 by autocast; vectors are normalised in float32."""
    threads: int | None = None
    """That decode, for each model; None: as many as there are cores for it, two at least."""
    workers: int | None = None
    """Models side by side; None: one for each GPU, without GPUs one for each four cores."""
    here: bool | None = None
    """Without Ray, in this process; None: if there is so little to do that starting Ray takes longer."""

    def check(self) -> None:
        """Refuse what no run can do.

        Raises:
            UserError: a value is off.
        """
        if self.precision not in PRECISIONS:
            raise UserError(f"precision '{self.precision}': there are {', '.join(PRECISIONS)}")
        for name in ("batch_size", "threads", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} {value}: at least 1")


@dataclass(frozen=True)
class Stretch:
    """What became of a stretch of samples."""

    rows: pa.Table
    """id, label, group, image_embedding and, if asked for, text_embedding."""
    rejects: list[dict[str, str]]
    """id, reason, detail of each that could not be read."""
    texts: int
    """Different captions that were embedded."""
    image_seconds: float
    """That the image tower took."""
    text_seconds: float


class Stream:
    """A model with its threads; ``embed`` may be called from several threads at a time."""

    def __init__(self, model: Model, options: Options, dtype: str = "float32", threads: int = 2) -> None:
        options.check()
        self._model, self._options, self._dtype = model, options, vectors.check_dtype(dtype)
        keep_freed(model.device)
        self._gpu = model.device.startswith("cuda")
        # A decoding thread must not start a team of threads of its own for every small tensor.
        self._decoders = _pool(options.threads or threads, 1)
        self._lane = _pool(2 if self._gpu else 1, torch.get_num_threads())

    def embed(self, samples: Sequence[Sample], texts: bool) -> Stretch:
        """Embed the pictures, and the captions of those that can be read."""
        read, images, image_seconds, rejects = self._images(samples)
        columns: dict[str, pa.Array] = {
            "id": pa.array([sample.id for sample in read], pa.string()),
            "label": pa.array([sample.label for sample in read], pa.int64()),
            "group": pa.array([sample.group or sample.id for sample in read], pa.string()),
            "image_embedding": vectors.column(images, self._dtype),
        }
        different, text_seconds = 0, 0.0
        if texts:
            captions, different, text_seconds = self._texts([sample.caption for sample in read])
            columns["text_embedding"] = vectors.column(captions, self._dtype)
        return Stretch(pa.table(columns), rejects, different, image_seconds, text_seconds)

    def close(self) -> None:
        """Let the threads go."""
        self._decoders.shutdown()
        self._lane.shutdown()

    def _images(self, samples: Sequence[Sample]) -> tuple[list[Sample], Vectors, float, list[dict[str, str]]]:
        read: list[Sample] = []
        rejects: list[dict[str, str]] = []
        done: list[Future[tuple[Vectors, float]]] = []
        for batch, pictures in self._decoded(samples):
            good = []
            for sample, picture in zip(batch, pictures, strict=True):
                if isinstance(picture, PixelError):
                    rejects.append({"id": sample.id, "reason": str(picture.reason), "detail": str(picture)})
                else:
                    read.append(sample)
                    good.append(picture)
            if good:
                done.append(self._lane.submit(self._timed, self._model.encode_pixels, self._stack(good)))
            if len(done) >= PREFETCH:
                done[-PREFETCH].result()
        results = [future.result() for future in done]
        none = np.zeros((0, self._model.embed_dim), np.float32)
        return read, np.concatenate([none, *(found for found, _ in results)]), sum(seconds for _, seconds in results), rejects

    def _decoded(self, samples: Sequence[Sample]) -> Iterator[tuple[Sequence[Sample], list[torch.Tensor | PixelError]]]:
        """Batches with their pictures; a few are under way while one is used."""
        under_way: deque[tuple[Sequence[Sample], list[Future[torch.Tensor | PixelError]]]] = deque()
        for start in range(0, len(samples), self._options.batch_size):
            batch = samples[start : start + self._options.batch_size]
            under_way.append((batch, [self._decoders.submit(self._picture, sample) for sample in batch]))
            if len(under_way) > PREFETCH:
                first, futures = under_way.popleft()
                yield first, [future.result() for future in futures]
        for first, futures in under_way:
            yield first, [future.result() for future in futures]

    def _picture(self, sample: Sample) -> torch.Tensor | PixelError:
        try:
            return self._model.preprocess(sample.image)
        except PixelError as error:
            return error

    def _stack(self, pictures: list[torch.Tensor]) -> torch.Tensor:
        batch = torch.stack(pictures)
        return batch.pin_memory() if self._gpu else batch

    def _texts(self, captions: Sequence[str]) -> tuple[Vectors, int, float]:
        different = sorted(set(captions), key=lambda text: (len(text), text))
        size = self._options.batch_size
        batches = [different[start : start + size] for start in range(0, len(different), size)]
        done = [self._lane.submit(self._timed, self._model.encode_texts, batch) for batch in batches]
        results = [future.result() for future in done]
        none = np.zeros((0, self._model.embed_dim), np.float32)
        matrix = np.concatenate([none, *(found for found, _ in results)])
        row = {text: number for number, text in enumerate(different)}
        back = matrix[[row[text] for text in captions]]
        return back, len(different), sum(seconds for _, seconds in results)

    def _timed(self, encode: Callable[..., Vectors], batch: object) -> tuple[Vectors, float]:
        started, dtype = time.perf_counter(), PRECISIONS[self._options.precision]
        kind = self._model.device.split(":")[0]
        with torch.autocast(kind, dtype=dtype, enabled=dtype is not torch.float32):
            found = encode(batch)
        return found, time.perf_counter() - started


def _pool(count: int, torch_threads: int) -> ThreadPoolExecutor:
    """Threads that are all there at once, each with its number of threads inside of torch."""
    before, ready = torch.get_num_threads(), threading.Barrier(count)

    def begin() -> None:
        torch.set_num_threads(torch_threads)
        torch.get_num_threads()  # a thread takes the number over when it is first asked for, and keeps it then

    pool = ThreadPoolExecutor(count, initializer=begin)
    for waiting in [pool.submit(ready.wait) for _ in range(count)]:
        waiting.result()
    torch.set_num_threads(before)
    return pool
