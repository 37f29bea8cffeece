"""Hostile requests, byte by byte, made from a seed: what hostile.py sends."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .. import dicoms

JSON = {"content-type": "application/json"}
JSON_ROUTES = ("/v1/embeddings", "/v1/search", "/v1/classify", "/v1/proxy")
RAW_ROUTES = ("/v1/embeddings/image", "/v1/search/image", "/v1/proxy/image")


@dataclass(frozen=True)
class Case:
    """One request as bytes; ``pieces`` are written with pauses of ``pause`` seconds between them."""

    name: str
    pieces: tuple[bytes, ...]
    may_pass: bool = False
    """It may happen to be a good request."""
    broken_http: bool = False
    """It is no HTTP: the server underneath may refuse it in its own words, or hang up."""
    pause: float = 0.0


def make(seed: int, host: str, key: str | None, slow: float = 3.0) -> Iterator[Case]:
    """All cases; the same ones for the same seed."""
    maker = _Maker(random.Random(seed), host, key)
    yield from maker.fuzzed_json()
    yield from maker.odd_json()
    yield from maker.odd_values()
    yield from maker.images()
    yield from maker.forms()
    yield from maker.addresses()
    yield from maker.heads()
    yield from maker.broken()
    yield from maker.chunked()
    yield from maker.slow(slow)


def picture(kind: str, size: tuple[int, int] = (24, 18)) -> bytes:
    """A small picture with some detail."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(5).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def png_of(width: int, height: int, data: bytes) -> bytes:
    """A PNG that says so many pixels, around any compressed data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


GOOD: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": ["a red field", "another"], "encoding_format": "float"},
    "/v1/search": {"text": "a red field", "k": 3, "filters": {"license_group": ["comm"], "year_min": 2010}, "target": "figure"},
    "/v1/classify": {"image": base64.b64encode(picture("PNG")).decode(), "labels": ["red", "blue"], "templates": ["a {}"]},
    "/v1/proxy": {"image": base64.b64encode(picture("PNG")).decode(), "k": 2, "min_score": 0.1},
}
ODD_BUT_GOOD: list[dict[str, Any]] = [
    {"vector": [1e308] * 8},
    {"text": "a", "filters": {"year_min": 10**20}},
    {"text": "a", "k": "1"},
    {"text": "a", "weights": {"text": "1"}},
]
VALUES: list[Any] = [
    *(None, True, -1, 0, 10**30, -(10**400), 1e308, 0.1, "", "x", "\x00", "\u202e", "a" * 20_000, [], {}, [[[]]]),
    *({"a": {}}, [None] * 300, {"type": "image"}, "http://169.254.169.254/", "file:///etc/passwd", "data:,", "../../etc/passwd"),
]


class _Maker:
    def __init__(self, rng: random.Random, host: str, key: str | None) -> None:
        self._rng = rng
        self._host = host
        self._key = key

    def request(
        self, path: str, body: bytes = b"", headers: dict[str, str] | None = None, method: str = "POST", length: bool = True
    ) -> bytes:
        fields = {"host": self._host, **({"authorization": f"Bearer {self._key}"} if self._key else {}), **(headers or {})}
        if length:
            fields.setdefault("content-length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("utf-8", "surrogateescape") + body

    def fuzzed_json(self) -> Iterator[Case]:
        """Good bodies with some bytes changed or cut off, or a value replaced."""
        for number in range(140):
            path = JSON_ROUTES[number % 4]
            body = json.dumps(self._twisted(GOOD[path]) if number % 2 else GOOD[path]).encode()
            if not number % 2:
                body = self._flipped(body)
            yield Case(f"json {number} {path}", (self.request(path, body, JSON),), may_pass=True)

    def _twisted(self, value: Any) -> Any:
        copy = json.loads(json.dumps(value))
        name = self._rng.choice(list(copy))
        if isinstance(copy[name], dict) and self._rng.random() < 0.5:
            copy[name] = self._twisted(copy[name])
        elif self._rng.random() < 0.2:
            copy[self._rng.choice(["K", "k ", "__proto__", "input\x00", "é"])] = copy.pop(name)
        else:
            copy[name] = self._rng.choice(VALUES)
        return copy

    def _flipped(self, data: bytes) -> bytes:
        broken = bytearray(data)
        for _ in range(self._rng.randint(1, 6)):
            broken[self._rng.randrange(len(broken))] = self._rng.randrange(256)
        return bytes(broken[: self._rng.randint(1, len(broken))] if self._rng.random() < 0.4 else broken)

    def odd_json(self) -> Iterator[Case]:
        """What is no JSON, or JSON that strains its reader."""
        odd = {
            "empty": b"",
            "nul": b"\0" * 100,
            "deep lists": b"[" * 200_000,
            "deep objects": b'{"input":' * 50_000,
            "closed deep lists": b'{"input":' + b"[" * 5000 + b"]" * 5000 + b"}",
            "long number": b'{"input": ' + b"9" * 10_000 + b"}",
            "long exponent": b'{"k": 1e' + b"9" * 1000 + b"}",
            "nan": b'{"input": NaN, "k": NaN, "vector": [NaN]}',
            "infinity": b'{"vector": [Infinity, -Infinity], "min_score": 1e999}',
            "surrogate": b'{"input": "\\ud800", "text": "\\udfff", "image": "\\ud800", "labels": ["\\ud800"]}',
            "utf-16": json.dumps({"input": "a"}).encode("utf-16"),
            "latin-1": '{"input": "é"}'.encode("latin-1"),
            "bom": b'\xef\xbb\xbf{"input": "a"}',
            "overlong utf-8": b'{"input": "\xc0\xaf"}',
            "twice": b'{"model": "x", "model": "y"}',
            "comma": b'{"input": "a",}',
            "gzip": zlib.compress(b'{"input": "a"}'),
            "many marks": b'{"input": [' + b"1," * 700_000 + b"1]}",
            "many names": ("{" + ",".join(f'"{n}": 1' for n in range(5000)) + "}").encode(),
        }
        for name, body in odd.items():
            for path in JSON_ROUTES:
                yield Case(f"{name} {path}", (self.request(path, body, JSON),), may_pass=name in ("bom", "utf-16"))

    def odd_values(self) -> Iterator[Case]:
        """Well-formed bodies whose values can't be served."""
        vectors = [[], [0.0] * 8, [1e308] * 8, ["x"], [None], [[1.0]], "AAAA", "*", {"a": 1}, [1e-320] * 8, list(range(5000))]
        ids = [
            "",
            "../../etc/passwd",
            "PMC1\x00",
            "\u202eevil",
            "a" * 5000,
            "PMC0000001.1/fig-1/0\n",
            "%2e%2e",
            "🧠" * 99,
            "' OR 1=1--",
        ]
        filters = [
            {"journal": ["x"] * 500},
            {"year_min": 10**20},
            {"year_max": "x"},
            {"license_group": [None]},
            {"a": 1},
            [],
            "x",
        ]
        searches = [
            *({"vector": value} for value in vectors),
            *({"pair_id": value} for value in ids),
            *({"text": "a", "filters": value} for value in filters),
            *({"text": "a", "k": value} for value in (0, -1, 10**9, 1.5, "1", [1])),
            *({"text": "a", "weights": value} for value in ({"text": 0}, {"text": 1e999}, {"x": 1}, {"text": "1"}, [1])),
        ]
        for number, body in enumerate(searches):
            request = self.request("/v1/search", json.dumps(body).encode(), JSON)
            yield Case(f"search {number}", (request,), may_pass=body in ODD_BUT_GOOD)
        grown = {**GOOD["/v1/classify"], "labels": ["x" * 8000] * 8, "templates": ["{}" * 4000]}
        yield Case("prompts that grow", (self.request("/v1/classify", json.dumps(grown).encode(), JSON),))
        for number, item in enumerate(VALUES):
            body = json.dumps({"input": [{"type": "image", "image": item}]}).encode()
            yield Case(f"image value {number}", (self.request("/v1/embeddings", body, JSON),))

    def images(self) -> Iterator[Case]:
        """Files that are broken, too large, two things at once or no images."""
        files = {kind: picture(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")}
        grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
        files["DICOM"] = dicoms.dicom(grey)
        files["DICOM in JPEG"] = dicoms.coded([dicoms.jpeg(grey)], grey)
        for kind, data in files.items():
            for number in range(6):
                yield self._image(f"fuzzed {kind} {number}", self._flipped(data), may_pass=True)
            yield self._image(f"cut {kind}", data[: len(data) // 3], may_pass=True)
            yield self._image(f"head of {kind}", data[:12] if "DICOM" not in kind else data[:140])
        odd = {
            "bomb": png_of(60_000, 60_000, b"\0"),
            "bomb that inflates": png_of(30_000, 30_000, bytes(2_000_000)),
            "no pixels": png_of(0, 0, b""),
            "gif bomb": b"GIF89a"
            + struct.pack("<HH", 65535, 65535)
            + b"\x80\0\0"
            + bytes(6)
            + b","
            + bytes(4)
            + b"\xff\xff\xff\xff\0\2\0;",
            "tiff bomb": b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + struct.pack("<HHIIHHII", 256, 4, 1, 2**31, 257, 4, 1, 2**31),
            "webp bomb": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff",
            "dicom bomb": dicoms.dicom(grey, NumberOfFrames=2_000_000_000),
            "dicom without pixels": dicoms.dicom(grey)[:600],
            "empty": b"",
            "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
            "pdf": b"%PDF-1.7\n" + bytes(100),
            "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n{} loop\n",
            "zip": b"PK\3\4" + bytes(100),
            "elf": b"\x7fELF" + bytes(200),
            "html in gif": b"GIF89a<script>alert(1)</script>",
            "zeros": bytes(5000),
        }
        for name, data in odd.items():
            yield self._image(name, data)
        for size in ((60_000, 1), (1, 3_000_000)):  # a few kB; enlarged to the model's side they would be gigabytes
            yield self._image(f"strip of {size}", png_of(*size, bytes((3 * size[0] + 1) * size[1])), may_pass=True)

    def _image(self, name: str, data: bytes, may_pass: bool = False) -> Case:
        way = self._rng.randrange(3)
        if way == 0:
            path = self._rng.choice(RAW_ROUTES)
            return Case(f"{name} {path}", (self.request(path, data, {"content-type": "application/octet-stream"}),), may_pass)
        text = base64.b64encode(data).decode()
        body: dict[str, Any] = {"input": f"data:image/png;base64,{text}"}
        if way == 2:
            body = {"image": text, "labels": ["a", "b"]}
        path = "/v1/classify" if way == 2 else "/v1/embeddings"
        return Case(f"{name} {path}", (self.request(path, json.dumps(body).encode(), JSON),), may_pass)

    def forms(self) -> Iterator[Case]:
        """multipart/form-data that is none."""
        part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        bodies = {
            "no end": part + picture("PNG"),
            "only the end": b"--b--\r\n",
            "no boundary in it": b"x" * 500,
            "no name": b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
            "no disposition": b"--b\r\n\r\nx\r\n--b--\r\n",
            "many parts": (part + b"x\r\n") * 2000 + b"--b--\r\n",
            "long header": b"--b\r\nX: " + b"y" * 50_000 + b"\r\n\r\n\r\n--b--\r\n",
            "path as name": part.replace(b'"x"', b'"../../../etc/passwd"') + b"junk\r\n--b--\r\n",
            "nul in name": part.replace(b'"x"', b'"\0"') + b"junk\r\n--b--\r\n",
            "field for file": b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b--\r\n',
            "odd charset": part + b"\r\n--b--\r\n",
        }
        for name, body in bodies.items():
            for path in RAW_ROUTES[:2]:
                yield Case(
                    f"form {name} {path}", (self.request(path, body, {"content-type": "multipart/form-data; boundary=b"}),)
                )
        for media in (
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=é",
            "multipart/mixed",
        ):
            yield Case(f"form {media}", (self.request(RAW_ROUTES[0], part, {"content-type": media}),))

    def addresses(self) -> Iterator[Case]:
        """Paths that lead elsewhere, and queries that fit nothing."""
        tails = ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/app.py", "....//....//etc/passwd", "%00", "a%00.js"]
        tails += [
            "%c0%ae%c0%ae/",
            "..\\..\\windows",
            "/etc/passwd",
            "%ff%fe",
            "%F0%9F%A7%A0",
            "a" * 3000,
            "%0d%0aX-Evil:%201",
            ".",
            "~root",
        ]
        for tail in tails:
            for root in ("/v1/images/", "/static/", "/v1/models/"):
                # a path of dots alone may be tidied up to one that exists
                yield Case(f"GET {root}{tail[:40]}", (self.request(root + tail, method="GET"),), may_pass=tail == ".")
        queries = ["size=0", "size=-1", "size=1e9", "size=NaN", "size=" + "9" * 400, "size=64&size=x", "size[]=64"]
        for query in queries:
            yield Case(f"GET image?{query[:40]}", (self.request(f"/v1/images/PMC0/x/0?{query}", method="GET"),))
        for query in (
            "k=%00",
            "k=1&k=2&k=x",
            "text=%ff",
            "journal=" + "x" * 9000,
            "filters=1",
            "year_min=1e9",
            "frame=99999999999",
            "&" * 500,
        ):
            request = self.request(f"/v1/search/image?{query}", picture("PNG"), {"content-type": "image/png"})
            yield Case(f"POST search/image?{query[:40]}", (request,), may_pass=query in ("text=%ff", "&" * 500))

    def heads(self) -> Iterator[Case]:
        """Methods, media types and header fields that are not wanted."""
        good = json.dumps(GOOD["/v1/embeddings"]).encode()
        for method in ("GET", "PUT", "DELETE", "PATCH", "TRACE", "BREW", "PROPFIND"):
            yield Case(f"{method} embeddings", (self.request("/v1/embeddings", b"", JSON, method),), broken_http=method == "BREW")
        for media in (
            "text/plain",
            "",
            "application/xml",
            "application/json;charset=utf-7x" * 20,
            "a/b/c",
            "application/x-www-form-urlencoded",
        ):
            yield Case(
                f"media {media[:30]}", (self.request("/v1/embeddings", good, {"content-type": media}),), may_pass="json" in media
            )
        fields = {
            "large": {"x-large": "x" * 20_000},
            "cookies": {"cookie": "a=b; " * 4000},
            "cross-site": {"origin": "https://evil.example"},
            "fetch site": {"sec-fetch-site": "cross-site"},
            "range": {"content-encoding": "gzip", "content-type": "text/html"},
            "expect": {"expect": "something-else", "content-type": "text/html"},
        }
        for name, extra in fields.items():
            yield Case(f"field {name}", (self.request("/v1/embeddings", good, {**JSON, **extra}),))
        many = {f"x-{number}": "y" for number in range(150)}
        yield Case("many fields", (self.request("/v1/embeddings", good, {**JSON, **many}),))
        yield Case("long address", (self.request("/v1/info?" + "x" * 12_000, method="GET"),))
        yield Case("too long to be true", (self.request("/v1/embeddings", b"", {**JSON, "content-length": str(10**12)}),))
        for bad in ("x\x01y", "<script>alert(1)</script>", "é" * 50, "a" * 500):
            yield Case(
                f"request id {bad[:9]!r}",
                (self.request("/nowhere", b"", {"x-request-id": bad}, "GET"),),
                broken_http="\x01" in bad,
            )

    def broken(self) -> Iterator[Case]:
        """What is not HTTP/1.1."""
        good = json.dumps(GOOD["/v1/embeddings"]).encode()
        junk = bytes(self._rng.randrange(256) for _ in range(500))
        broken = {
            "junk": junk + b"\r\n\r\n",
            "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "hello of TLS": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + junk,
            "no version": b"GET /v1/info\r\n\r\n",
            "version 9": b"GET /v1/info HTTP/9.9\r\nhost: x\r\n\r\n",
            "no host": b"GET /nowhere HTTP/1.1\r\n\r\n",
            "two hosts": b"GET /nowhere HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            "length twice": self.request("/v1/embeddings", good, {**JSON, "content-length": "5\r\ncontent-length: 60"}),
            "length negative": self.request("/v1/embeddings", good, {**JSON, "content-length": "-5"}),
            "length in words": self.request("/v1/embeddings", good, {**JSON, "content-length": "five"}),
            "length with plus": self.request("/v1/embeddings", good, {**JSON, "content-length": "+5"}),
            "length and chunks": self.request("/v1/embeddings", good, {**JSON, "transfer-encoding": "chunked"}),
            "length too small": self.request("/v1/embeddings", good, {**JSON, "content-length": "5"}),
            "odd coding": self.request("/v1/embeddings", good, {**JSON, "transfer-encoding": "gzip, chunked"}, length=False),
            "folded": self.request("/nowhere", b"", {"x-folded": "a\r\n b"}, "GET"),
            "space before colon": b"GET /nowhere HTTP/1.1\r\nhost : x\r\n\r\n",
            "nul in a field": self.request("/nowhere", b"", {"x-nul": "a\0b"}, "GET"),
            "feed in a field": self.request("/nowhere", b"", {"x-lf": "a\nX-Evil: 1"}, "GET"),
            "absolute address": self.request("http://evil.example/nowhere", b"", None, "GET"),
            "no slash": self.request("nowhere", b"", None, "GET"),
            "asterisk": self.request("*", b"", None, "OPTIONS"),
            "tunnel": self.request("evil.example:443", b"", None, "CONNECT"),
            "spaces in the address": self.request("/no where /x", b"", None, "GET"),
            "bytes in the address": b"GET /v1/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
            "upgrade": self.request("/v1/info", b"", {"upgrade": "websocket", "connection": "upgrade"}, "POST"),
            "websocket": self.request(
                "/v1/info",
                b"",
                {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13", "sec-websocket-key": "YQ=="},
                "GET",
            ),
        }
        for name, data in broken.items():
            yield Case(name, (data,), may_pass=name in ("upgrade", "websocket", "version 9"), broken_http=True)

    def chunked(self) -> Iterator[Case]:
        """Bodies in chunks that do not add up."""
        head = self.request("/v1/embeddings", b"", {**JSON, "transfer-encoding": "chunked"}, length=False)
        good = json.dumps(GOOD["/v1/embeddings"]).encode()
        whole = b"%x\r\n%s\r\n0\r\n\r\n" % (len(good), good)
        yield Case("chunked and good", (head, whole), may_pass=True)
        yield Case("one byte a chunk", (head, b"".join(b"1\r\n%c\r\n" % byte for byte in good) + b"0\r\n\r\n"), may_pass=True)
        for name, body in {
            "size in words": b"zz\r\nab\r\n0\r\n\r\n",
            "size negative": b"-1\r\nab\r\n0\r\n\r\n",
            "size too large": b"ffffffffffffffffff\r\nab",
            "size without end": b"1" * 100_000,
            "no line end": b"2\r\nabXX0\r\n\r\n",
            "extension": b"2;" + b"x" * 100_000 + b"\r\nab\r\n0\r\n\r\n",
        }.items():
            yield Case(f"chunk {name}", (head, body), broken_http=True)
        yield Case("chunks without end", (head, *[b"10000\r\n" + b" " * 65536 + b"\r\n"] * 700), broken_http=True)

    def slow(self, seconds: float) -> Iterator[Case]:
        """Senders who take their time, and those who leave in the middle."""
        request = self.request("/v1/embeddings", b"x" * 1000, JSON)
        drops = tuple(request[at : at + 1] for at in range(len(request) - 1000, len(request)))[:100]
        head = request[:-1000]
        for number in range(4):
            yield Case(f"a drop at a time {number}", (head, *drops), broken_http=True, pause=seconds / 20)
        yield Case("leaves in the middle", (head + b"{",), broken_http=True)
