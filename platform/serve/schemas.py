"""Bodies of requests and answers; FastAPI checks the former and describes both at /openapi.json."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from biomedray.serve.filters import NoBoolean, Whole
from biomedray.serve.search import Filters, Target

_ITEM_SCHEMA = {
    "anyOf": [
        {"type": "string", "description": "a text, or a data:image/...;base64, URL"},
        {
            "type": "object",
            "required": ["type", "text"],
            "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
        },
        {
            "type": "object",
            "required": ["type", "image"],
            "properties": {"type": {"const": "image"}, "image": {"type": "string", "description": "base64 or a data URL"}},
        },
    ]
}
_INPUT_SCHEMA = {"anyOf": [*_ITEM_SCHEMA["anyOf"], {"type": "array", "items": _ITEM_SCHEMA}]}
_CODED = {"type": "string", "format": "byte", "description": "base64 of little-endian float32"}
_VECTOR_SCHEMA = {"anyOf": [{"type": "array", "items": {"type": "number"}}, _CODED, {"type": "null"}]}

Finite = Annotated[float, Field(allow_inf_nan=False), NoBoolean]


class Request(BaseModel):
    """Base of request bodies: a misspelt field is refused, not ignored."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class EmbeddingsRequest(Request):
    """As OpenAI's embeddings request; items may be images."""

    model: str | None = None
    """Name of the served model, or none for whichever is served."""
    input: Annotated[Any, WithJsonSchema(_INPUT_SCHEMA)]
    """A text, an image, or a list of them."""
    encoding_format: Literal["float", "base64"] | None = "float"
    """Null is float. base64 is little-endian float32, a third of the size."""
    dimensions: Whole | None = None
    """Only the model's own length is served."""
    user: str | None = Field(default=None, max_length=256)
    """Accepted for OpenAI's sake and not used."""


class ClassifyRequest(Request):
    """Zero-shot classification of one image."""

    model: str | None = None
    """Name of the served model, or none."""
    image: str
    """Base64 or a data URL."""
    labels: list[str] = Field(fail_fast=True)
    """What the image may show, at least two."""
    templates: list[str] = Field(default=["this is a photo of {}"], fail_fast=True)
    """Prompts; {} stands for the label."""


class SearchRequest(Request):
    """Search by one of text, image, vector and pair_id, or by several of them added up."""

    model: str | None = None
    """Name of the served model, or none."""
    text: str | None = None
    """What the figure should show."""
    image: str | None = None
    """Base64 or a data URL; it is neither stored nor logged."""
    vector: Annotated[Any, WithJsonSchema(_VECTOR_SCHEMA)] = None
    """An embedding of the served model, of any length but zero."""
    pair_id: str | None = Field(default=None, max_length=1000)
    """Figures like this one."""
    minus: str | None = None
    """A text whose embedding is taken away: figures like it fall back."""
    weights: dict[str, Finite] = Field(default={}, max_length=5)
    """Weight of each part of a mixed query; 1 unless told, 0.5 for minus."""
    k: Whole = Field(default=10, ge=1)
    """How many hits; /v1/info has the limit."""
    target: Target = "figure"
    """Whether figures or captions are compared with the query."""
    filters: Filters = Filters()
    """Applied before the k best are chosen."""
    collapse_duplicates: bool = True
    """Show one of each cluster of near-identical figures."""


class ProxyRequest(Request):
    """Look for public figures that can stand in for a private image: send it, or an embedding of it made elsewhere."""

    model: str | None = None
    """Name of the served model, or none."""
    image: str | None = None
    """Base64 or a data URL; it is neither stored nor logged."""
    vector: Annotated[Any, WithJsonSchema(_VECTOR_SCHEMA)] = None
    """An embedding of the image by the served model, so that the image need not leave."""
    k: Whole = Field(default=5, ge=1, le=100)
    """How many proxies at most."""
    min_score: Finite | None = None
    """Cosine similarity that a proxy must reach; without it the nearest are answered, however far."""
    filters: Filters = Filters()


class Usage(BaseModel):
    """Tokens of the texts; images count none."""

    prompt_tokens: int
    total_tokens: int


class Embedding(BaseModel):
    """One embedding, of length one."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(BaseModel):
    """As OpenAI's embeddings answer."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Prediction(BaseModel):
    """One label of a zero-shot answer."""

    label: str
    probability: float
    cosine: float


class ClassifyAnswer(BaseModel):
    """Labels, likeliest first; the probabilities add up to one."""

    object: Literal["classification"]
    model: str
    predictions: list[Prediction]


class Links(BaseModel):
    """Where the article can be read."""

    pmc: str | None
    doi: str | None


class FigureLinks(BaseModel):
    """Where this service has the figure, and its size in pixels."""

    url: str
    thumbnail: str
    width: int
    height: int


class HitAnswer(BaseModel):
    """One figure found, with what is needed to cite it."""

    rank: int
    pair_id: str
    score: float
    """Cosine similarity to the query."""
    percentile: float | None
    """Share in % of random pairs of the index whose cosine is lower; null of an index too small to say."""
    caption: str
    fig_label: str | None
    panel_label: str | None
    """Null of a whole figure."""
    article_title: str | None
    journal: str | None
    year: int | None
    article_type: str | None
    license: str | None
    license_group: str
    pmcid: str
    version: int
    doi: str | None
    citation: str
    """Title, journal, year and DOI in one line."""
    image_kind: Literal["single", "panels", "chart"] | None
    split: str
    links: Links
    image: FigureLinks


class SearchAnswer(BaseModel):
    """The k nearest; ``total`` counts the rows that passed the filters."""

    object: Literal["search"]
    model: str
    generation: str
    target: Target
    total: int
    partial: bool
    """Whether a shard of the index did not answer in time and is missing."""
    took_ms: float
    hits: list[HitAnswer]


class ProxyHit(BaseModel):
    """One public figure, with what is needed to fetch and cite it."""

    rank: int
    pair_id: str
    score: float
    percentile: float | None
    license: str | None
    license_group: str
    citation: str | None
    fig_label: str | None
    links: Links
    image: FigureLinks


class ProxyAnswer(BaseModel):
    """The public figures nearest to a private image; none when no good one is known."""

    object: Literal["proxy"]
    model: str
    generation: str
    total: int
    proxies: list[ProxyHit]
    note: str
