"""What building the answer to a request for embeddings costs: 64 vectors of 512, in each form that the service sends.

CPU time of one thread, median of 30, the forms in turn. 'json' is what the standard library makes of the same lists,
as FastAPI's and Starlette's own answers do.

    python benchmarks/serve_answers.py
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from _measure import record
from biomedray.serve.answers import Form, embeddings_answer

ROUNDS, ROWS, DIM = 30, 64, 512
FORMS: tuple[Form, ...] = ("float", "base64", "npy", "raw")


def main() -> None:
    """Measure and record."""
    vectors = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def standard() -> bytes:
        data = [{"object": "embedding", "index": number, "embedding": row.tolist()} for number, row in enumerate(vectors)]
        answer = {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 9, "total_tokens": 9}}
        return json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()

    ways: dict[str, Callable[[], bytes]] = {"json, floats": standard}
    ways |= {form: lambda form=form: bytes(embeddings_answer("m", vectors, 9, form).body) for form in FORMS}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    sizes = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.thread_time()
            sizes[name] = len(way())
            spent[name].append(1000 * (time.thread_time() - started))
    rows = [{"form": name, "cpu_ms": statistics.median(times), "kB": sizes[name] / 1000} for name, times in spent.items()]
    record("serve-answers", f"an answer of {ROWS} vectors of {DIM}", rows)


if __name__ == "__main__":
    main()
