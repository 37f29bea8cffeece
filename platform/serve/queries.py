"""From the parts of a request to one query vector: what was given, embedded, weighed, added up and scaled to length one.

image + text - minus: with unit vectors, what lies near the sum lies near both; what lies near ``minus`` falls back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from biomedray.serve import schemas
from biomedray.serve.engine import Engine, unit
from biomedray.serve.inputs import read_image, read_text, vector_of
from biomedray.serve.problems import Problem, bad_value

Vectors = NDArray[np.float32]

MINUS_WEIGHT = 0.5
"""Weight of ``minus`` unless told: at 1 the common part of all texts would cancel out and little of the query be left."""


@dataclass(frozen=True)
class Asked:
    """A query: its vector [d], the row of the figure it began from, and the kind of query that recall is measured by."""

    vector: Vectors
    row: int | None = None
    kind: Literal["text", "image"] = "image"


async def read_query(body: schemas.SearchRequest, engine: Engine) -> Asked:
    """The query of a search.

    Raises:
        Problem: nothing was asked, a part can't be read, or the parts cancel out.
    """
    parts: dict[str, Vectors] = {}
    row: int | None = None
    if body.vector is not None:
        parts["vector"] = given_vector(body.vector, engine.encoder.embed_dim)
    if body.pair_id is not None:
        known = await engine.known(body.pair_id)
        if known is None:
            raise Problem(404, "pair_id: no such pair in the index", "unknown_pair", "pair_id")
        row, parts["pair_id"] = known
    if body.text is not None:
        parts["text"] = await engine.query_vector(read_text(body.text, "text", engine.limits), "text")
    if body.image is not None:
        parts["image"] = await engine.query_vector(read_image(body.image, "image", engine.limits), "image")
    if not parts:
        raise bad_value("send one of text, image, vector and pair_id", "text", "empty_query")
    kind: Literal["text", "image"] = "image" if set(parts) <= {"image", "pair_id"} else "text"
    if body.minus is not None:
        parts["minus"] = -await engine.query_vector(read_text(body.minus, "minus", engine.limits), "minus")
    if unused := set(body.weights) - set(parts):
        raise bad_value(f"weights: {min(unused)} is not part of the query", "weights")
    usual = {"minus": MINUS_WEIGHT}
    mixed = np.sum([body.weights.get(name, usual.get(name, 1.0)) * part for name, part in parts.items()], axis=0)
    return Asked(unit(np.asarray(mixed), "query"), row, kind)


async def read_private(body: schemas.ProxyRequest, engine: Engine) -> Asked:
    """The query of a proxy search: an image, or a vector that the caller made of it.

    Raises:
        Problem: neither or both are given, or it can't be read.
    """
    if (body.image is None) == (body.vector is None):
        raise bad_value("send either image or vector", "image", "empty_query")
    if body.image is None:
        return Asked(given_vector(body.vector, engine.encoder.embed_dim))
    return Asked(await engine.query_vector(read_image(body.image, "image", engine.limits), "image"))


def given_vector(values: Any, dim: int) -> Vectors:
    """A vector [d] that a caller sent, scaled to length one.

    Raises:
        Problem: not a list of numbers, of another length, zero or not finite.
    """
    if isinstance(values, str):
        values = vector_of(values)
    if not isinstance(values, list) or any(type(value) not in (int, float) for value in values[: dim + 1]):
        raise bad_value("vector: a list of numbers is wanted", "vector")
    if len(values) != dim:
        raise bad_value(f"vector: {len(values)} numbers, this model's embeddings have {dim}", "vector", "wrong_dimension")
    try:
        return unit(np.array(values, dtype=np.float64), "vector")
    except OverflowError:
        raise bad_value("vector: a number is too large", "vector") from None
