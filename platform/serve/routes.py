"""The HTTP routes, as a plain FastAPI application around an engine; no Ray here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Query
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from biomedray.serve import metrics, schemas, static
from biomedray.serve.access import Access, Gate
from biomedray.serve.admission import busy
from biomedray.serve.answers import Form, accepted_form, embeddings_answer
from biomedray.serve.engine import Engine
from biomedray.serve.guard import Guard
from biomedray.serve.hits import PROXY_NOTE, hit_answer, no_proxy, proxy_answer
from biomedray.serve.inputs import read_image, read_items, read_text
from biomedray.serve.openapi import DescribedAPI
from biomedray.serve.problems import Problem, answer_http, answer_validation, bad_value
from biomedray.serve.queries import read_private, read_query
from biomedray.serve.search import Query as IndexQuery
from biomedray.serve.slot import ENGINE, Leased, Slot
from biomedray.serve.uploads import ImageProxy, ImageSearch, sent_image, sent_images

Vectors = NDArray[np.float32]
_READY_SECONDS = 5.0
MODEL_ALIAS = "biomedray"  # whichever model is served: for callers that must name one


def create_app(served: Engine | Slot, send_request_id: bool = True, access: Access | None = None) -> FastAPI:
    """The whole HTTP service; ``send_request_id`` is off behind Ray Serve, whose proxy sends it.

    Raises:
        UserError: the keys of ``access`` can't be read.
    """
    slot = served if isinstance(served, Slot) else Slot(served)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        slot.close()

    plain: dict[str, Any] = {"docs_url": None, "redoc_url": None, "redirect_slashes": False}
    app = DescribedAPI(title="biomedray", lifespan=lifespan, separate_input_output_schemas=False, **plain)
    app.state.slot = slot
    app.state.page = static.load_page()
    app.include_router(router)
    app.include_router(pages)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(RequestValidationError, answer_validation)
    app.add_middleware(Leased, slot=slot)
    gate, room = Gate(access or Access(), slot.limits), partial(busy, slot)
    app.add_middleware(Guard, limits=slot.limits, metrics=slot.metrics, gate=gate, busy=room, send_request_id=send_request_id)
    return app


def _engine(request: Request) -> Engine:
    """The engine that this request holds.

    Raises:
        Problem: 503, nothing is loaded yet.
    """
    engine: Engine | None = request.scope[ENGINE]
    if engine is None:
        raise Problem(503, "the model is being loaded", "not_ready", retry_after=5)
    return engine


def _json_only(request: Request) -> None:
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media != "application/json":
        raise Problem(415, "send JSON with content-type: application/json", "unsupported_media_type")


EngineDep = Annotated[Engine, Depends(_engine)]
JSON_BODY = [Depends(_json_only)]
router = APIRouter()
pages = APIRouter(include_in_schema=False)


@router.get("/healthz")
@router.get("/livez")
async def alive() -> Response:
    """The process answers."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
async def ready(engine: EngineDep) -> Response:
    """The model answers, and answers as it did at first: as known from the last seconds, so that full queues don't matter."""
    if not engine.lanes.health().ok:
        try:
            await asyncio.wait_for(engine.lanes.canary(), _READY_SECONDS)
        except Exception:  # noqa: BLE001  # whatever ails the model, the answer is the same: not ready
            raise Problem(503, "the model does not answer as it should", "not_ready", retry_after=5) from None
    return JSONResponse({"status": "ready"})


@router.get("/metrics")
async def prometheus(engine: EngineDep) -> Response:
    """Metrics of the replica that answers, in Prometheus' text format."""
    engine.update_gauges()
    return Response(engine.metrics.text(), media_type=metrics.MEDIA_TYPE)


@router.get("/v1/models")
async def models(engine: EngineDep) -> Response:
    """The served model, as OpenAI lists models."""
    return JSONResponse({"object": "list", "data": [_model_card(engine), _model_card(engine, MODEL_ALIAS)]})


@router.get("/v1/models/{name:path}")
async def model(name: str, engine: EngineDep) -> Response:
    """One model."""
    _check_model(engine, name)
    return JSONResponse(_model_card(engine))


@router.get("/v1/info")
async def info(request: Request, engine: EngineDep) -> Response:
    """Limits, fingerprints, and what the index holds; ``trouble`` says that something newer was found and can't be served."""
    encoder = engine.encoder
    sizes = {"embed_dim": encoder.embed_dim, "context_length": encoder.context_length, "image_size": encoder.image_size}
    computes = {name: getattr(encoder, name, None) for name in ("device", "precision", "backend")}
    about = {"name": encoder.name, "fingerprint": encoder.fingerprint, **computes, **sizes}
    answer = {"model": about, "index": _index_card(engine), "limits": engine.limits.resolved()}
    return JSONResponse({**answer, "trouble": request.app.state.slot.trouble})


@router.post("/v1/embeddings", dependencies=JSON_BODY, response_model=schemas.EmbeddingsAnswer)
async def embeddings(body: schemas.EmbeddingsRequest, request: Request, engine: EngineDep) -> Response:
    """Embed texts and images."""
    _check_model(engine, body.model)
    if body.dimensions not in (None, engine.encoder.embed_dim):
        raise bad_value(f"dimensions: this model's embeddings have {engine.encoder.embed_dim}", "dimensions")
    vectors, tokens = await engine.embed(read_items(body.input, engine.limits))
    form = accepted_form(request.headers.get("accept", ""), body.encoding_format or "float")
    return embeddings_answer(engine.encoder.name, vectors, tokens, form)


@router.post("/v1/embeddings/image", response_model=schemas.EmbeddingsAnswer)
async def image_embeddings(
    request: Request,
    engine: EngineDep,
    encoding: Annotated[Form | None, Query(alias="format")] = None,
    frame: Annotated[int | None, Query(ge=0)] = None,
) -> Response:
    """Embed image files sent as they are: one as the raw body, or several as multipart/form-data."""
    sources = await sent_images(request, engine.limits, frame)
    vectors, tokens = await engine.embed(sources, "image")
    form = encoding or accepted_form(request.headers.get("accept", ""), "float")
    return embeddings_answer(engine.encoder.name, vectors, tokens, form)


@router.post("/v1/classify", dependencies=JSON_BODY, response_model=schemas.ClassifyAnswer)
async def classify(body: schemas.ClassifyRequest, engine: EngineDep) -> Response:
    """Zero-shot classification: which label's prompts lie nearest to the image."""
    _check_model(engine, body.model)
    _check_prompts(body, engine)
    image = read_image(body.image, "image", engine.limits)
    probabilities, cosines = await engine.classify(image, body.labels, body.templates)
    order = np.argsort(-probabilities, kind="stable").tolist()
    predictions = [{"label": body.labels[i], "probability": float(probabilities[i]), "cosine": float(cosines[i])} for i in order]
    return JSONResponse({"object": "classification", "model": engine.encoder.name, "predictions": predictions})


@router.post("/v1/search", dependencies=JSON_BODY, response_model=schemas.SearchAnswer)
async def search(body: schemas.SearchRequest, request: Request, engine: EngineDep) -> Response:
    """The figures whose embeddings lie nearest to the query's."""
    started = time.monotonic()
    _check_model(engine, body.model)
    index = engine.need_index()
    k = _count(body, engine)
    asked = await read_query(body, engine)
    query = IndexQuery(asked.vector, k, body.target, body.filters, body.collapse_duplicates, asked.row, asked.kind)
    found = await engine.search(query)
    root = str(request.scope.get("root_path", ""))
    answer: dict[str, Any] = {"object": "search", "model": engine.encoder.name, "generation": index.generation.name}
    answer |= {
        "target": body.target,
        "total": found.total,
        "partial": found.partial,
        "took_ms": round(1000 * (time.monotonic() - started), 2),
    }
    answer["hits"] = [hit_answer(hit, rank, root, engine.limits.thumbnail_pixels) for rank, hit in enumerate(found.hits, 1)]
    return JSONResponse(answer)


@router.post("/v1/search/image", response_model=schemas.SearchAnswer)
async def image_search(request: Request, engine: EngineDep, asked: Annotated[ImageSearch, Query()]) -> Response:
    """Search by an image file sent as it is, DICOM too; the rest of the query stands in the address."""
    engine.need_index()
    vector = await engine.query_vector(await sent_image(request, engine.limits, asked.frame), "image")
    given = asked.model_dump(include={"k", "text", "minus", "target", "collapse_duplicates"}, exclude_unset=True)
    return await search(schemas.SearchRequest(vector=vector.tolist(), filters=asked.filters(), **given), request, engine)


@router.post("/v1/proxy", dependencies=JSON_BODY, response_model=schemas.ProxyAnswer)
async def proxy(body: schemas.ProxyRequest, request: Request, engine: EngineDep) -> Response:
    """Public figures to use in place of a private image: it is held for this request only, and only ids come back."""
    _check_model(engine, body.model)
    index = engine.need_index()
    k = _count(body, engine)
    asked = await read_private(body, engine)
    found = await engine.search(IndexQuery(asked.vector, k, "figure", body.filters, kind="image"))
    pixels = engine.limits.thumbnail_pixels
    near = [hit for hit in found.hits if body.min_score is None or hit.score >= body.min_score]
    root = str(request.scope.get("root_path", ""))
    answer: dict[str, Any] = {"object": "proxy", "model": engine.encoder.name, "generation": index.generation.name}
    answer |= {"total": found.total, "proxies": [proxy_answer(hit, rank, root, pixels) for rank, hit in enumerate(near, 1)]}
    best = round(max((hit.score for hit in found.hits), default=0.0), 6)
    answer["note"] = PROXY_NOTE if near else no_proxy(best, body.min_score)
    return JSONResponse(answer)


@router.post("/v1/proxy/image", response_model=schemas.ProxyAnswer)
async def image_proxy(request: Request, engine: EngineDep, asked: Annotated[ImageProxy, Query()]) -> Response:
    """Proxy search by an image file sent as it is, DICOM too."""
    engine.need_index()
    vector = await engine.query_vector(await sent_image(request, engine.limits, asked.frame), "image")
    given = asked.model_dump(include={"k", "min_score"}, exclude_unset=True)
    return await proxy(schemas.ProxyRequest(vector=vector.tolist(), filters=asked.filters(), **given), request, engine)


@router.get("/v1/images/{pair_id:path}")
async def figure(pair_id: str, request: Request, engine: EngineDep, size: Annotated[int | None, Query(ge=16)] = None) -> Response:
    """A figure of the index as its article has it, or a thumbnail of at most ``size`` pixels a side."""
    if size is not None and size > engine.limits.thumbnail_pixels:
        raise bad_value(f"size: the limit is {engine.limits.thumbnail_pixels}", "size")
    picture = await engine.picture(pair_id, size)
    headers = {"etag": picture.etag, "cache-control": "private, max-age=3600"}
    if static.etag_matches(request, picture.etag):
        return Response(status_code=304, headers=headers)
    return Response(picture.data, media_type=picture.media_type, headers=headers)


@pages.get("/")
async def page(request: Request) -> Response:
    """The search page."""
    return static.answer(request, request.app.state.page["index.html"])


@pages.get("/docs")
async def docs(request: Request) -> Response:
    """A list of the routes, made from /openapi.json."""
    return static.answer(request, request.app.state.page["docs.html"])


@pages.get("/static/{name}")
async def static_file(name: str, request: Request) -> Response:
    """A script or style sheet of the pages."""
    if name not in request.app.state.page:
        raise Problem(404, "no such file", "unknown_file")
    return static.answer(request, request.app.state.page[name])


def _check_model(engine: Engine, name: str | None) -> None:
    if name not in (None, engine.encoder.name, MODEL_ALIAS):
        raise Problem(404, f"no such model; this service has {engine.encoder.name}", "model_not_found", "model")


def _count(body: schemas.SearchRequest | schemas.ProxyRequest, engine: Engine) -> int:
    """How many hits are wanted: what is asked for within the limit, or as many of the usual number as that allows."""
    if body.k > engine.limits.k and "k" in body.model_fields_set:
        raise bad_value(f"k: the limit is {engine.limits.k}", "k")
    return min(body.k, engine.limits.k)


def _check_prompts(body: schemas.ClassifyRequest, engine: Engine) -> None:
    limits = engine.limits
    if not 2 <= len(body.labels) <= limits.labels:
        raise bad_value(f"labels: between 2 and {limits.labels} are wanted", "labels")
    if not 1 <= len(body.templates) <= limits.templates:
        raise bad_value(f"templates: between 1 and {limits.templates} are wanted", "templates")
    if len(body.labels) * len(body.templates) > limits.prompts:
        raise bad_value(f"labels times templates: the limit is {limits.prompts}", "labels")
    for number, label in enumerate(body.labels):
        read_text(label, f"labels[{number}]", limits)
    for number, template in enumerate(body.templates):
        read_text(template, f"templates[{number}]", limits)
        if "{}" not in template:
            raise bad_value(f"templates[{number}]: {{}} must stand where the label goes", f"templates[{number}]")
        # Told before any is built: of a few kB, prompts of gigabytes can be made.
        longest = len(template) + template.count("{}") * (max(map(len, body.labels)) - len("{}"))
        if longest > limits.text_chars:
            line = f"templates[{number}]: a prompt of {longest} characters, the limit is {limits.text_chars}"
            raise bad_value(line, f"templates[{number}]", "text_too_long")


def _model_card(engine: Engine, name: str | None = None) -> dict[str, Any]:
    root = engine.encoder.name
    return {"id": name or root, "object": "model", "created": 0, "owned_by": "biomedray", "root": root}


def _index_card(engine: Engine) -> dict[str, Any] | None:
    if engine.index is None:
        return None
    images = engine.images is not None and engine.images.available
    return {**engine.index.card(), "images": images}
