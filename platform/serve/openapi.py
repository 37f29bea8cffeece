"""The description at /openapi.json: FastAPI's, with summaries, examples, every refusal and the ways to show a key added."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from biomedray.serve.examples import ROUTES, Route
from biomedray.serve.limits import Limits

_SCHEMAS = "#/components/schemas/"
_ALWAYS = (401, 403, 429, 500, 503)
_WHEN = {
    400: "The body can't be read.",
    401: "A key is wanted, or this one is not known; see `WWW-Authenticate`.",
    403: "Pages of other sites may not ask here.",
    404: "No such model, pair or figure; or the service has no index.",
    408: "The body came too slowly.",
    413: "The body or an image has too many bytes.",
    415: "Another content type is wanted.",
    422: "A field is missing, misspelt or can't be served; `param` names it, as in `input[3]`.",
    429: "Too many requests for this key; see `Retry-After`.",
    500: "A fault of the server; nothing of its inside is told.",
    503: "Overloaded, too slow or not ready; see `Retry-After`.",
}
_ABOUT = (
    "Embeddings of biomedical figures and captions, search over figures of PubMed Central, zero-shot classification. "
    "Vectors have length one, so that the score of a hit is a cosine. Research use only, not for diagnosis."
)
_KEYS: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "basic": {"type": "http", "scheme": "basic", "description": "The key is the password, the name may be anything."},
}


class Fault(BaseModel):
    """What went wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None
    request_id: str


class Refusal(BaseModel):
    """The body of every answer that is not 2xx or 304."""

    error: Fault


class Status(BaseModel):
    """The answer of a probe."""

    status: Literal["ok", "ready"]


class ModelCard(BaseModel):
    """A served model; ``root`` is its own name when ``id`` is another one for it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str


class ModelList(BaseModel):
    """As OpenAI lists models."""

    object: Literal["list"]
    data: list[ModelCard]


class ModelInfo(BaseModel):
    """The model; the fingerprint stands for weights, tokenizer and settings."""

    name: str
    fingerprint: str
    device: str
    precision: str | None = None
    backend: str | None = None
    embed_dim: int
    context_length: int
    image_size: int


class Info(BaseModel):
    """What is served; ``index`` holds rows, fingerprints, facets and measured recall, and is null without one."""

    model: ModelInfo
    index: dict[str, Any] | None
    limits: Limits
    trouble: str | None = None
    """What newer model or index was found and can't be served, and why."""


class DescribedAPI(FastAPI):
    """FastAPI whose description says more."""

    def openapi(self) -> dict[str, Any]:
        """The description, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = describe(super().openapi())
        return self.openapi_schema


def describe(schema: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's description, completed."""
    schema["info"]["description"] = _ABOUT
    components = schema.setdefault("components", {})
    _, made = models_json_schema(
        [(model, "serialization") for model in (Refusal, Status, ModelCard, ModelList, Info)], ref_template=_SCHEMAS + "{model}"
    )
    components["schemas"] = {**components.get("schemas", {}), **made["$defs"]}
    for gone in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(gone, None)
    components["securitySchemes"] = _KEYS
    schema["tags"] = [{"name": tag} for tag in dict.fromkeys(route.tag for route in ROUTES.values())]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if route := ROUTES.get((method, path)):
                _complete(operation, route)
    return schema


def _complete(operation: dict[str, Any], route: Route) -> None:
    operation["tags"] = [route.tag]
    operation["summary"] = route.summary
    operation["description"] = route.about or operation["description"]
    operation["security"] = [] if route.is_open else [{}, *({name: []} for name in _KEYS)]
    if route.takes_images:
        operation["requestBody"] = {"required": True, "content": _image_bodies()}
    if route.examples:
        examples = {
            name.replace(" ", "_").replace(",", ""): {"summary": name, "value": value} for name, value in route.examples.items()
        }
        operation["requestBody"]["content"]["application/json"]["examples"] = examples
    operation["responses"] = {"200": _good(operation["responses"]["200"], route), **_refusals(route)}
    samples = {"Python": route.python, "OpenAI": route.openai}
    operation["x-codeSamples"] = [{"lang": "Python", "label": name, "source": code} for name, code in samples.items() if code]


def _good(known: dict[str, Any], route: Route) -> dict[str, Any]:
    content = known.get("content", {})
    if route.answer:
        content = {"application/json": {"schema": {"$ref": _SCHEMAS + route.answer}}}
    elif not content.get("application/json", {}).get("schema"):
        content = {}
    others = {
        media: {"schema": {"type": "string", "description": what, **({} if media == "text/plain" else {"format": "binary"})}}
        for media, what in route.media.items()
    }
    return {"description": "Done.", "content": {**content, **others}}


def _refusals(route: Route) -> dict[str, Any]:
    statuses = sorted({*route.errors, *((500, 503) if route.is_open else _ALWAYS)})
    body = {"application/json": {"schema": {"$ref": _SCHEMAS + Refusal.__name__}}}
    said = {str(status): {"description": _WHEN[status], "content": body, **_headers(status)} for status in statuses}
    return {**said, "default": {"description": "Any other refusal.", "content": body}}


def _headers(status: int) -> dict[str, Any]:
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return {"headers": {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}}
    if status == HTTPStatus.UNAUTHORIZED:
        return {"headers": {"WWW-Authenticate": {"schema": {"type": "string"}}}}
    return {}


def _image_bodies() -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"image": {"type": "array", "items": file}}, "required": ["image"]}
    media = ("image/*", "application/dicom", "application/octet-stream")
    return {**{name: {"schema": file} for name in media}, "multipart/form-data": {"schema": form}}
