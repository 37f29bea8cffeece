"""Embeddings as an answer, in the form that the caller asks for.

    Accept: application/octet-stream    float32, little-endian, row by row; its shape in x-embedding-shape
    Accept: application/x-npy           the same as a .npy file
    encoding_format: base64             OpenAI's JSON, each vector as base64 of little-endian float32
    encoding_format: float              OpenAI's JSON, numbers

orjson writes numbers: 64 vectors of 512 take 2 ms of CPU time instead of 50, and 40 % fewer bytes, since it writes
a float32 by the shortest digits that give it back.
"""

from __future__ import annotations

import base64
import io
import re
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

Vectors = NDArray[np.float32]
Form = Literal["float", "base64", "npy", "raw"]
_REFUSED = re.compile(r"q=0(\.0{0,3})?")
MEDIA: dict[Form, str] = {"npy": "application/x-npy", "raw": "application/octet-stream"}


def accepted_form(accept: str, otherwise: Form) -> Form:
    """The form that an Accept header names outright and does not refuse (q=0), else ``otherwise``."""
    named = set()
    for part in accept.lower().split(","):
        media, *parameters = (field.strip() for field in part.split(";"))
        if not any(_REFUSED.fullmatch(field) for field in parameters):
            named.add(media)
    return next((form for form, media in MEDIA.items() if media in named), otherwise)


def embeddings_answer(model: str, vectors: Vectors, tokens: int, form: Form) -> Response:
    """The answer to a request for embeddings; ``vectors`` [n, d], ``tokens`` of its texts."""
    if form in MEDIA:
        shape = ",".join(map(str, vectors.shape))
        headers = {"x-embedding-shape": shape, "x-embedding-tokens": str(tokens), "vary": "accept"}
        return Response(_npy(vectors) if form == "npy" else _bytes(vectors), media_type=MEDIA[form], headers=headers)
    rows = [_base64(row) for row in vectors] if form == "base64" else np.ascontiguousarray(vectors)
    data = [{"object": "embedding", "index": number, "embedding": row} for number, row in enumerate(rows)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_answer({"object": "list", "data": data, "model": model, "usage": usage})


def json_answer(content: Any, status: int = 200) -> Response:
    """A JSON answer; arrays of NumPy are written as lists."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json")


def _bytes(vectors: Vectors) -> bytes:
    return vectors.astype("<f4").tobytes()


def _base64(vector: Vectors) -> str:
    return base64.b64encode(_bytes(vector)).decode()


def _npy(vectors: Vectors) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, vectors.astype("<f4"))
    return buffer.getvalue()
