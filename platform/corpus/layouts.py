"""Articles as files: PMC's former packages, and the prefixes of its cloud bucket.

package   packages/PMC1.tar.gz( PMC1/a.nxml, PMC1/a.f1.jpg, PMC1/a.f1.gif )
cloud     cloud/PMC1.1/PMC1.1.{xml,txt,pdf,json} + media     cloud/metadata/PMC1.1.json
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import Any

from biomedray.corpus.figure_xml import source_data_name
from biomedray.corpus.grammar import plain
from biomedray.corpus.jats import article_text, article_xml
from biomedray.corpus.plan import Article
from biomedray.corpus.render import encode, render, render_stray, thumbnail

BUCKET = "pmc-oa-opendata"
TAR_TIME = 1_600_000_000
_PDF_BODY = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]>>endobj
"""
PDF = _PDF_BODY + b"trailer<</Root 1 0 R/Size 4>>\n%%EOF\n"


@dataclass
class Bundle:
    """An article's files on their way to disk; what corpus.broken damages."""

    article: Article
    xml: bytes | None
    media: dict[str, bytes]
    """File name within the article's folder -> bytes: pictures, thumbnails, supplements."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Overrides of the cloud JSON."""
    json: bytes | None = None
    """The whole cloud JSON, when it is damaged."""
    archive: bytes | None = None
    """The whole package, when it is damaged."""
    suffix: str = ""
    """Added to the package's name, for a second copy."""

    @property
    def source(self) -> str:
        """The package file or the article's folder, relative to the corpus."""
        if self.article.layout == "package":
            return f"packages/{self.article.pmcid}{self.suffix}.tar.gz"
        return f"cloud/{self.article.stem}"


def bundle(article: Article) -> Bundle:
    """Draw the pictures and write the XML of an article."""
    media: dict[str, bytes] = {}
    for figure in (inner for outer in article.figures for inner in outer.walk()):
        if figure.construct == "source_data":
            media[source_data_name(figure, article)] = b"PK\x05\x06" + bytes(18)
        for graphic in figure.graphics:
            if graphic.file is None:
                continue
            image = render(graphic)
            media[graphic.file] = encode(image, graphic.file)
            if article.layout == "package" and graphic.chosen:
                media[f"{graphic.file.removesuffix('.jpg')}.gif"] = thumbnail(image)
    media.update({stray.file: render_stray(stray) for stray in article.strays})
    return Bundle(article, article_xml(article), media)


def files(bundle: Bundle) -> dict[str, bytes]:
    """Every file of the article, by path relative to the corpus."""
    if bundle.article.layout == "package":
        archive = pack(members(bundle)) if bundle.archive is None else bundle.archive
        return {bundle.source: archive}
    stem = bundle.article.stem
    record = metadata_json(bundle) if bundle.json is None else bundle.json
    inside = _cloud_texts(bundle) | bundle.media | {f"{stem}.json": record}
    return {f"{bundle.source}/{name}": data for name, data in inside.items()} | {f"cloud/metadata/{stem}.json": record}


def _cloud_texts(bundle: Bundle) -> dict[str, bytes]:
    stem = bundle.article.stem
    texts = {f"{stem}.txt": article_text(bundle.article).encode(), f"{stem}.pdf": PDF}
    return texts if bundle.xml is None else texts | {f"{stem}.xml": bundle.xml}


def members(bundle: Bundle) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The members of an article's package, the folder first."""
    folder = bundle.article.pmcid
    inside = dict(sorted(bundle.media.items())) | {"article.pdf": PDF}
    if bundle.xml is not None:
        inside = {f"article-{bundle.article.pmcid.removeprefix('PMC')}.nxml": bundle.xml} | inside
    root = member(folder)
    root.type, root.mode = tarfile.DIRTYPE, 0o755
    return [(root, b""), *((member(f"{folder}/{name}", len(data)), data) for name, data in inside.items())]


def member(name: str, size: int = 0) -> tarfile.TarInfo:
    """A tar header that says nothing of the machine or the hour."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, TAR_TIME, 0o644
    return info


def pack(contents: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A gzipped tar, the same bytes for the same contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for info, data in contents:
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0)


def metadata_json(bundle: Bundle) -> bytes:
    """The article's JSON record, as PMC's bucket has it both in the prefix and under metadata/."""
    article, texts = bundle.article, _cloud_texts(bundle)
    stem = article.stem

    def url(name: str, data: bytes) -> str:
        return f"s3://{BUCKET}/{stem}/{name}?md5={hashlib.md5(data, usedforsecurity=False).hexdigest()}"

    def text_url(suffix: str) -> str | None:
        name = f"{stem}.{suffix}"
        return url(name, texts[name]) if name in texts else None

    record = {
        "pmcid": article.pmcid,
        "version": article.version,
        "title": plain(article.title),
        "citation": f"{article.journal.abbreviation}. {article.year}",
        "doi": article.doi,
        "pmid": article.pmid,
        "mid": None,
        "license_code": None if article.license_code == "NO-CC CODE" else article.license_code,
        "is_pmc_openaccess": True,
        "is_retracted": False,
        "is_manuscript": False,
        "is_historical_ocr": False,
        "pdf_url": text_url("pdf"),
        "xml_url": text_url("xml"),
        "text_url": text_url("txt"),
        "media_urls": [url(name, data) for name, data in sorted(bundle.media.items())],
    }
    return json.dumps(record | bundle.metadata, indent=2, ensure_ascii=False).encode() + b"\n"
