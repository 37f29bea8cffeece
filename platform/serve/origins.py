"""Which web pages may ask: this service's own, and those of the origins that its operator names.

Browsers send a password of HTTP Basic by themselves, also when another site's page makes them ask. So what could
change or cost something is refused when the browser says that it comes from elsewhere (Sec-Fetch-Site, Origin).
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers

from biomedray.serve.problems import Problem

_SAFE = ("GET", "HEAD")
_OWN = ("same-origin", "none")
_DAY = "86400"


class Origins:
    """The origins that may read answers; none but the service's own unless told."""

    def __init__(self, allowed: tuple[str, ...] = ()) -> None:
        """``allowed``: as browsers write them, ``https://host:port``; ``*`` is all."""
        self._allowed = {origin.rstrip("/").lower() for origin in allowed}

    def check(self, method: str, headers: Headers) -> None:
        """Let a request pass, unless it is another site's.

        Raises:
            Problem: 403, it comes from a page of another origin.
        """
        if method in _SAFE or self._allows(headers.get("origin")):
            return
        site = headers.get("sec-fetch-site")
        foreign = site not in _OWN if site else not _is_own(headers)
        if foreign:
            raise Problem(403, "pages of other sites may not ask here; its operator can allow an origin", "cross_site")

    def preflight(self, method: str, headers: Headers) -> dict[str, str] | None:
        """The answer to a browser that asks beforehand; None if this is no such question, or not an allowed origin's."""
        asked = headers.get("access-control-request-method")
        if method != "OPTIONS" or asked is None or not self._allows(headers.get("origin")):
            return None
        return {
            **self.answer(headers),
            "access-control-allow-methods": "GET, POST",
            "access-control-allow-headers": "authorization, content-type, x-api-key, x-request-id",
            "access-control-max-age": _DAY,
        }

    def answer(self, headers: Headers) -> Mapping[str, str]:
        """Headers that let an allowed origin's page read the answer."""
        if not self._allowed:
            return {}
        origin = headers.get("origin")
        if origin is None or not self._allows(origin):
            return {"vary": "Origin"}
        shown = "retry-after, x-request-id"
        return {"access-control-allow-origin": origin, "access-control-expose-headers": shown, "vary": "Origin"}

    def _allows(self, origin: str | None) -> bool:
        return origin is not None and ("*" in self._allowed or origin.lower() in self._allowed)


def _is_own(headers: Headers) -> bool:
    origin = headers.get("origin")
    return origin is None or origin.lower().split("://", 1)[-1] == headers.get("host", "").lower()
