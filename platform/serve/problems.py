"""Refusals in the shape that OpenAI clients read: one JSON object with message, type, param, code, request id."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_FIRST_SERVER_STATUS = 500

REFUSAL = "biomedray.refusal"
"""Key of a request's scope that holds the code of its refusal, for metrics and the log."""


class Problem(HTTPException):
    """A refusal: status, one line for the caller, the field that caused it and a code for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        wait = {} if retry_after is None else {"retry-after": str(max(1, math.ceil(retry_after)))}
        super().__init__(status, message, {**wait, **(headers or {})})
        self.code = code
        self.param = param


def bad_value(message: str, param: str, code: str = "invalid_value") -> Problem:
    """422: the field is there and readable, but its value can't be served."""
    return Problem(422, message, code, param)


def error_body(status: int, message: str, code: str, param: str | None, request_id: str) -> dict[str, Any]:
    """The JSON object of a refusal."""
    default = "server_error" if status >= _FIRST_SERVER_STATUS else "invalid_request_error"
    kind = _TYPES.get(status, default)
    return {"error": {"message": message, "type": kind, "param": param, "code": code, "request_id": request_id}}


def answer_http(request: Request, error: Exception) -> JSONResponse:
    """Handler for Problem and for what the router itself raises (404, 405, unreadable bodies)."""
    assert isinstance(error, HTTPException)
    request_id = str(request.scope.get("request_id", ""))
    if isinstance(error, Problem):
        code, param, message = error.code, error.param, str(error.detail)
    else:
        code, param, message = _plain(error, request)
    request.scope[REFUSAL] = code
    body = error_body(error.status_code, message, code, param, request_id)
    return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))


def answer_validation(request: Request, error: Exception) -> JSONResponse:
    """Handler for a body or query that does not fit its schema: names the first misfit, never echoes its value."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    request_id = str(request.scope.get("request_id", ""))
    request.scope[REFUSAL] = str(first["type"])
    if first["type"] == "json_invalid":
        return JSONResponse(error_body(400, "the body is not valid JSON", "invalid_json", None, request_id), 400)
    param = param_path(first["loc"][1:]) or None
    message = f"{param or 'body'}: {_first_line(first['msg'])}"
    return JSONResponse(error_body(422, message, str(first["type"]), param, request_id), 422)


def param_path(location: Sequence[int | str]) -> str:
    """``("input", 3, "image")`` as ``input[3].image``."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path[:200]


def _plain(error: HTTPException, request: Request) -> tuple[str, None, str]:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return "unknown_route", None, "no such route; /openapi.json lists them"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return "method_not_allowed", None, f"{request.method} is not allowed here"
    if error.status_code == HTTPStatus.BAD_REQUEST:
        return "unreadable_body", None, "the body can't be read: not valid UTF-8, nested too deeply or cut off"
    return f"http_{error.status_code}", None, HTTPStatus(error.status_code).phrase


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0][:300]
