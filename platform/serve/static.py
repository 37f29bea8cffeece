"""The search page's files, read once at start and sent with an ETag and a strict policy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

PAGE = Path(__file__).parent / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class StaticFile:
    """A file of the page, ready to send."""

    data: bytes
    media_type: str
    etag: str


def load_page() -> dict[str, StaticFile]:
    """All files of the page by name."""
    return {path.name: _load(path) for path in sorted(PAGE.iterdir()) if path.suffix in _MEDIA}


def answer(request: Request, file: StaticFile) -> Response:
    """The file, or 304 when the browser has it."""
    headers = {"etag": file.etag, "cache-control": "no-cache", "content-security-policy": POLICY}
    if etag_matches(request, file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.data, media_type=file.media_type, headers=headers)


def etag_matches(request: Request, etag: str) -> bool:
    """Whether the caller's If-None-Match names this content."""
    given = [value.strip().removeprefix("W/") for value in request.headers.get("if-none-match", "").split(",")]
    return etag in given or "*" in given


def _load(path: Path) -> StaticFile:
    data = path.read_bytes()
    return StaticFile(data, _MEDIA[path.suffix], f'"{hashlib.sha256(data).hexdigest()[:24]}"')
