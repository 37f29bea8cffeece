"""What the API page says of each route: a summary, requests that work as they stand, and code in Python.

tests/serve/test_openapi.py sends every example to a service and checks the answer against its schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAG0lEQVR42mPkYEAFLPzoAoLoAgLDR4DxO5oAALc0Ahp3QqCz"
    "AAAAAElFTkSuQmCC"
)
"""A grey gradient of 16 x 16 pixels."""

_OURS = "from biomedray.serve.client import Client\n\nwith Client(URL, key=KEY) as client:\n"
_OPENAI = 'from openai import OpenAI\n\nclient = OpenAI(base_url=URL + "/v1", api_key=KEY or "none")\n'


@dataclass(frozen=True)
class Route:
    """One route's documentation; ``errors`` are statuses beside those that every route may answer with."""

    tag: str
    summary: str
    about: str = ""
    """More of it, where the route's own line does not do."""
    examples: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """Request bodies in JSON, by what they show."""
    errors: Sequence[int] = ()
    python: str = ""
    """With ``biomedray.serve.client``; URL and KEY are the reader's."""
    openai: str = ""
    """With OpenAI's own client."""
    takes_images: bool = False
    """The body is an image file, or a form of them."""
    is_open: bool = False
    """Needs no key."""
    answer: str = ""
    """Name of the answer's schema, where the route itself does not say it."""
    media: Mapping[str, str] = field(default_factory=dict)
    """Other media types of the answer, and what they hold."""


_BODY = (400, 404, 408, 413, 415, 422)
_VECTORS = {
    "application/x-npy": "NumPy's file of an array [n, d] of float32",
    "application/octet-stream": "little-endian float32, row by row; x-embedding-shape has the shape",
}
_LEFT_OUT = "it is neither kept nor logged"

ROUTES: dict[tuple[str, str], Route] = {
    ("post", "/v1/embeddings"): Route(
        "Embeddings",
        "Texts and images to vectors, as OpenAI's route",
        "A string that begins with data:image/ is an image, any other one a text. Vectors have length one and come in "
        "the order of the input. Accept: application/octet-stream or application/x-npy gives bytes, the quickest way.",
        {
            "a text": {"input": "chest radiograph with consolidation"},
            "several texts": {
                "model": "biomedray",
                "input": ["lung adenocarcinoma", "normal lung tissue"],
                "encoding_format": "base64",
            },
            "text and image": {"input": ["chest radiograph", PICTURE, {"type": "image", "image": PICTURE.partition(",")[2]}]},
        },
        _BODY,
        _OURS + '    vectors = client.embed_texts(["lung adenocarcinoma", "normal lung tissue"])    # [2, d] float32',
        _OPENAI + 'answer = client.embeddings.create(model="biomedray", input=["lung adenocarcinoma", "normal lung tissue"])\n'
        "vectors = [entry.embedding for entry in answer.data]",
        media=_VECTORS,
    ),
    ("post", "/v1/embeddings/image"): Route(
        "Embeddings",
        "Image files to vectors, sent as they are",
        "One file as the body (its content type does not matter: the bytes say what it is), or several in a form. JPEG, PNG, "
        "WebP, GIF, TIFF, BMP and DICOM.",
        errors=_BODY,
        python="from pathlib import Path\n"
        + _OURS
        + '    vectors = client.embed_images([path.read_bytes() for path in sorted(Path("figures").glob("*.jpg"))])',
        takes_images=True,
        media=_VECTORS,
    ),
    ("post", "/v1/classify"): Route(
        "Zero-shot",
        "Which of some labels an image shows",
        "A class is the normalised mean of its prompts' embeddings, {} in a template being its label; probabilities are the "
        "softmax of the model's logit scale times the cosines. They add up to one over the labels that were given, whatever "
        "the image shows.",
        {
            "two labels": {"image": PICTURE, "labels": ["pneumonia", "normal"]},
            "own templates": {
                "image": PICTURE,
                "labels": ["adenocarcinoma", "normal tissue"],
                "templates": ["a histopathology image of {}", "a micrograph showing {}"],
            },
        },
        _BODY,
        _OURS + '    image = open("figure.jpg", "rb").read()\n    print(client.classify(image, ["pneumonia", "normal"]))',
    ),
    ("post", "/v1/search"): Route(
        "Search",
        "The nearest figures to a text, an image, a vector or another figure",
        "Send one of text, image, vector and pair_id, or several that are added up. Filters are applied before the k best are "
        "chosen, so that a narrow one still fills k. The score is a cosine similarity.",
        {
            "by text": {"text": "chest radiograph with consolidation", "k": 5},
            "by image, filtered": {"image": PICTURE, "k": 5, "filters": {"license_group": ["comm"], "year_min": 2015}},
            "a mixture": {
                "text": "lung tissue",
                "image": PICTURE,
                "minus": "tumour",
                "weights": {"text": 1.0, "image": 0.5, "minus": 0.5},
                "target": "caption",
            },
        },
        _BODY,
        _OURS + '    for hit in client.search("chest radiograph with consolidation", k=5, filters={"license_group": ["comm"]}):\n'
        '        print(hit["score"], hit["pair_id"], hit["caption"])',
    ),
    ("post", "/v1/search/image"): Route("Search", "Search by an image file sent as it is", errors=_BODY, takes_images=True),
    ("post", "/v1/proxy"): Route(
        "Search",
        "Public figures that may stand in for a private image",
        "The image is held for this request only, neither kept nor logged; a vector computed elsewhere will do, so that "
        "the image need not leave at all. Where none reaches min_score the list is empty and the note says so.",
        {
            "an image": {"image": PICTURE, "k": 3},
            "at least so near": {"image": PICTURE, "min_score": 0.5, "filters": {"license_group": ["comm"]}},
        },
        _BODY,
        _OURS + f'    found = client.proxy(image=open("private.png", "rb").read(), min_score=0.5)    # {_LEFT_OUT}\n'
        '    print(found["proxies"] or found["note"])',
    ),
    ("post", "/v1/proxy/image"): Route("Search", "Proxy search by an image file sent as it is", errors=_BODY, takes_images=True),
    ("get", "/v1/images/{pair_id}"): Route(
        "Search",
        "A figure of the index, or a thumbnail",
        errors=(404, 422),
        python=_OURS + '    thumbnail = client.figure("PMC10000265.1/F2s1/0", size=320)',
        media={f"image/{kind}": "the file as its article has it" for kind in ("jpeg", "png", "gif", "webp", "tiff", "bmp")},
    ),
    ("get", "/v1/info"): Route(
        "Service",
        "Model, index and limits",
        python=_OURS + '    print(client.info()["limits"])',
        answer="Info",
    ),
    ("get", "/v1/models"): Route(
        "Service",
        "The served model, by its name and as 'biomedray'",
        openai=_OPENAI + "print(client.models.list())",
        answer="ModelList",
    ),
    ("get", "/v1/models/{name}"): Route("Service", "One model", errors=(404,), answer="ModelCard"),
    ("get", "/livez"): Route("Operation", "Whether the process answers", is_open=True, answer="Status"),
    ("get", "/healthz"): Route("Operation", "As /livez", is_open=True, answer="Status"),
    ("get", "/readyz"): Route("Operation", "Whether the model answers, and as it did at first", is_open=True, answer="Status"),
    ("get", "/metrics"): Route(
        "Operation", "Metrics of the replica that answers", media={"text/plain": "Prometheus' text format"}
    ),
}
