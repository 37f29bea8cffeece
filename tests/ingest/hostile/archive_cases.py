"""Hostile archives, folders and cloud records."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

Build = Callable[[Path], None]
Member = tuple[tarfile.TarInfo, bytes]

_XML = (
    b'<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta><article-id pub-id-type="pmcid">PMC1</article-id>'
    b'</article-meta></front><body><fig id="F1"><caption><p>A caption.</p></caption><graphic xlink:href="f1.jpg"/></fig>'
    b"</body></article>"
)
_OPEN = {"is_pmc_openaccess": True, "is_retracted": False, "is_historical_ocr": False, "license_code": "CC BY"}


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", size: int | None = None) -> Member:
    """A member; ``size`` may lie."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data) if size is None else size
    return info, data


def tar_bytes(members: list[Member], form: int = tarfile.GNU_FORMAT) -> bytes:
    """The blocks of an archive, without tarfile's own checks."""
    out = bytearray()
    for info, data in members:
        out += info.tobuf(form, errors="surrogateescape") + data + bytes(-len(data) % 512)
    return bytes(out) + bytes(1024)


def _write(data: bytes) -> Build:
    def build(path: Path) -> None:
        path.with_name(path.name + ".tar.gz").write_bytes(data)

    return build


def _packed(members: list[Member]) -> Build:
    return _write(gzip.compress(tar_bytes(members), mtime=0))


def cases(picture: bytes) -> Iterator[tuple[str, Build, str]]:
    """Name, what to write at a path, and what must become of it: reject, pair or any."""
    article, figure = member("PMC1/a.nxml", _XML), member("PMC1/f1.jpg", picture)
    good = tar_bytes([article, figure])
    yield from _members(article, figure)
    yield from _streams(good)
    yield from _headers(article, figure, good)
    yield from _folders(picture)
    yield from _records(picture)


def _members(article: Member, figure: Member) -> Iterator[tuple[str, Build, str]]:
    picture = figure[1]
    for number, name in enumerate(
        (
            "../f1.jpg",
            "/f1.jpg",
            "PMC1/../../f1.jpg",
            "PMC1/./../../../tmp/f1.jpg",
            "//f1.jpg",
            "..\\..\\f1.jpg",
            "C:\\f1.jpg",
            "~/f1.jpg",
        )
    ):
        yield f"tar-path-{number}", _packed([article, member(name, picture)]), "any"
    for number, name in enumerate(
        ("\u202egpj.1f", "f\u0000.jpg", "\udcff\udcfe.jpg", "f1.jpg\n", "\u2215etc\u2215f1.jpg", "F1.JPG", " f1.jpg")
    ):
        yield f"tar-name-{number}", _packed([article, member(f"PMC1/{name}", picture)]), "any"
    yield (
        "tar-surrogate-xml",
        _packed([member("\udcff/\udcfe.nxml", _XML), member("x/b.nxml", _XML)]),
        "any",
    )
    yield "tar-long-name", _packed([article, member("d/" * 5_000 + "f1.jpg", picture)]), "any"
    kinds = {
        "symlink": tarfile.SYMTYPE,
        "hardlink": tarfile.LNKTYPE,
        "fifo": tarfile.FIFOTYPE,
        "char": tarfile.CHRTYPE,
        "block": tarfile.BLKTYPE,
    }
    for name, kind in kinds.items():
        yield (
            f"tar-{name}-picture",
            _packed([article, member("PMC1/f1.jpg", b"", kind, "/etc/passwd")]),
            "reject",
        )
        yield f"tar-{name}-xml", _packed([member("PMC1/a.nxml", b"", kind, "/etc/passwd")]), "reject"
    yield (
        "tar-link-inside",
        _packed([article, figure, member("PMC1/f2.jpg", b"", tarfile.SYMTYPE, "f1.jpg")]),
        "pair",
    )
    yield (
        "tar-link-loop",
        _packed([article, member("PMC1/f1.jpg", b"", tarfile.SYMTYPE, "f1.jpg")]),
        "reject",
    )
    yield (
        "tar-folder-as-xml",
        _packed([member("a.nxml", b"", tarfile.DIRTYPE), member("a.nxml/f1.jpg", picture)]),
        "reject",
    )
    yield "tar-duplicates", _packed([article, figure] * 50), "pair"
    yield (
        "tar-duplicate-that-differs",
        _packed([article, figure, member("PMC1/f1.jpg", b"<html>")]),
        "any",
    )
    yield (
        "tar-link-over-file",
        _packed([article, figure, member("PMC1/f1.jpg", b"", tarfile.SYMTYPE, "/etc/passwd")]),
        "any",
    )
    yield "tar-many-empty", _packed([member(f"d/{i}") for i in range(100_000)]), "reject"
    yield "tar-many-empty-xml", _packed([member(f"{i}.xml") for i in range(2_000)]), "reject"
    yield (
        "tar-nested",
        _packed([member("PMC1/inner.tar.gz", gzip.compress(tar_bytes([article, figure])))]),
        "reject",
    )


def _streams(good: bytes) -> Iterator[tuple[str, Build, str]]:
    whole = gzip.compress(good, mtime=0)
    for part in range(1, 8):
        yield f"gz-cut-{part}", _write(whole[: len(whole) * part // 8]), "any"
    for at in range(0, len(whole), max(1, len(whole) // 8)):
        yield f"gz-flipped-{at}", _write(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]), "any"
    for name, data in {
        "empty": b"",
        "garbage": b"not an archive " * 100,
        "zip": b"PK\x03\x04" + bytes(500),
        "gz-of-text": gzip.compress(b"hello " * 500),
        "gz-of-gz": gzip.compress(whole),
        "gz-zeros": gzip.compress(bytes(30_000_000)),
        "gz-members": gzip.compress(b"") * 20_000,
        "bz2-cut": bz2.compress(good)[:200],
        "xz-cut": lzma.compress(good)[:200],
        "xz-header": b"\xfd7zXZ\x00" + b"\xff" * 100,
        "html": b"<html>404</html>",
    }.items():
        yield f"stream-{name}", _write(data), "reject"
    yield "stream-plain-under-gz", _write(good), "pair"
    yield "stream-garbage-after", _write(whole + b"garbage" * 100), "any"


def _headers(article: Member, figure: Member, good: bytes) -> Iterator[tuple[str, Build, str]]:
    def size_field(field: bytes) -> bytes:
        header = bytearray(good)
        header[124:136] = field
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header[:512])
        return bytes(header)

    yield "tar-negative-size", _write(size_field(b"\xff" * 11 + b"\x00")), "reject"
    yield "tar-huge-size", _write(size_field(b"\x80" + struct.pack(">QH", 2**62, 0) + b"\0")), "reject"
    yield "tar-octal-size", _write(size_field(b"77777777777\0")), "reject"
    yield "tar-bad-size", _write(size_field(b"zzzzzzzzzzz\0")), "reject"
    yield (
        "tar-header-bomb",
        _packed([member("x", bytes(60_000_000), tarfile.XHDTYPE), article, figure]),
        "reject",
    )
    yield (
        "tar-name-bomb",
        _packed([member("x", b"a" * 60_000_000, tarfile.GNUTYPE_LONGNAME), article]),
        "reject",
    )
    yield "tar-bad-pax", _packed([member("x", b"99999 path=", tarfile.XHDTYPE), article, figure]), "any"
    yield (
        "tar-pax-size",
        _packed([member("x", b"20 size=99999999999\n", tarfile.XHDTYPE), article, figure]),
        "any",
    )
    yield (
        "tar-pax-path",
        _packed([member("x", b"24 path=../../../evil/x\n", tarfile.XHDTYPE), article, figure]),
        "any",
    )
    yield "tar-sparse", _packed([member("s", b"", tarfile.GNUTYPE_SPARSE), article, figure]), "any"
    yield "tar-unknown-kind", _packed([member("PMC1/f1.jpg", figure[1], b"Z"), article]), "any"
    yield (
        "tar-chain-of-long-names",
        _packed([member("x", b"a" * 200, tarfile.GNUTYPE_LONGNAME)] * 5_000),
        "reject",
    )
    yield (
        "tar-chain-of-globals",
        _packed([member("x", b"9 a=bcde\n", tarfile.XGLTYPE)] * 5_000),
        "reject",
    )


def _folders(picture: bytes) -> Iterator[tuple[str, Build, str]]:
    def folder(prepare: Build) -> Build:
        def build(path: Path) -> None:
            path.mkdir()
            (path / "a.nxml").write_bytes(_XML)
            prepare(path)

        return build

    def linked(target: str) -> Build:
        def build(path: Path) -> None:
            path.mkdir()
            (path / "a.nxml").symlink_to(target)

        return build

    def with_picture(name: str) -> Build:
        return folder(lambda path: (path / name).write_bytes(picture) and None)

    yield "folder-picture-is-loop", folder(lambda path: (path / "f1.jpg").symlink_to("f1.jpg")), "reject"
    yield "folder-picture-leads-out", folder(lambda path: (path / "f1.jpg").symlink_to("/etc/passwd")), "reject"
    yield "folder-picture-is-pipe", folder(lambda path: os.mkfifo(path / "f1.jpg")), "reject"
    yield "folder-picture-is-device", folder(lambda path: (path / "f1.jpg").symlink_to("/dev/zero")), "reject"
    yield "folder-picture-is-folder", folder(lambda path: (path / "f1.jpg").mkdir()), "reject"
    yield "folder-loops", folder(lambda path: (path / "sub").symlink_to(path)), "reject"
    yield "folder-up", folder(lambda path: (path / "sub").symlink_to("/")), "reject"
    yield "folder-broken-link", folder(lambda path: (path / "f1.jpg").symlink_to("nowhere")), "reject"
    yield "folder-many-files", folder(lambda path: [(path / f"{i}.png").touch() for i in range(3_000)] and None), "reject"
    yield "folder-deep", folder(lambda path: (path / "/".join("d" * 300)).mkdir(parents=True)), "reject"
    for number, name in enumerate(("f1\n.jpg", "f1.jpg ", "\u202ef1.jpg", os.fsdecode(b"\xff\xfe.jpg"), "-rf.jpg", "$(id).jpg")):
        yield f"folder-name-{number}", with_picture(name), "reject"
    yield "folder-xml-is-loop", linked("a.nxml"), "reject"
    yield "folder-xml-leads-out", linked("/etc/passwd"), "reject"
    yield os.fsdecode(b"folder-\xff\xfe"), with_picture("f1.jpg"), "reject"
    yield "folder-line\nbreak", with_picture("f1.jpg"), "pair"


def _records(picture: bytes) -> Iterator[tuple[str, Build, str]]:
    def cloud(record: bytes) -> Build:
        def build(path: Path) -> None:
            number = 900_000 + sum(record[:4000]) * 7 + len(record)
            article = path / f"PMC{number}.1"
            article.mkdir(parents=True)
            (article / f"{article.name}.xml").write_bytes(_XML.replace(b"PMC1<", b"PMC%d<" % number))
            (article / f"{article.name}.json").write_bytes(record)
            (article / "f1.jpg").write_bytes(picture)

        return build

    for name, record in {
        "empty": b"",
        "list": b"[1]",
        "cut": b'{"is_retracted": tr',
        "deep": b"[" * 200_000,
        "deep-object": b'{"a":' * 200_000,
        "nul": b"\0" * 100,
        "binary": bytes(range(256)),
        "huge-number": b'{"pmid": ' + b"9" * 100_000 + b"}",
        "text-flag": json.dumps({**_OPEN, "is_retracted": "no"}).encode(),
        "number-flag": json.dumps({**_OPEN, "is_retracted": 0}).encode(),
    }.items():
        yield f"record-{name}", cloud(record), "reject"
    for name, change in {
        "surrogate": {"doi": "10.1/\ud800", "license_code": "\udfff"},
        "control": {"doi": "\0\x1b[31m", "license_code": "CC BY\n"},
        "wrong-types": {"license_code": ["CC BY"], "doi": {"a": 1}, "pmid": True, "media_urls": "x"},
        "odd-numbers": {"pmid": 10**300, "version": -1},
        "not-a-number": {"pmid": float("nan"), "doi": float("inf")},
        "long": {"doi": "x" * 1_000_000, "license_code": "CC " * 100_000},
        "other-article": {"pmcid": "PMC5", "version": 77},
        "many-files": {"media_urls": ["s3://b/x?md5=1"] * 20_000},
    }.items():
        yield f"record-{name}", cloud(json.dumps({**_OPEN, **change}).encode()), "any"
    utf16 = io.BytesIO(json.dumps(_OPEN).encode("utf-16")).getvalue()
    yield "record-utf-16", cloud(utf16), "any"
