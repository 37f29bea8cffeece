"""What the ingest tests share: pictures, packages, folders, and a way to see what became of an article."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from biomedray.ingest.articles import ArticleRows, extract
from biomedray.ingest.images import Media
from biomedray.ingest.packages import Package
from biomedray.ingest.settings import IngestConfig

CONFORMANCE = Path(__file__).parent / "conformance"


def picture(kind: str = "jpg", size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    """A small picture that is neither blank nor a thumbnail."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper()))
    return out.getvalue()


def article_xml(pmc: str = "PMC1", figures: int = 1, *, body: str = "", front: str = "") -> bytes:
    """An article with figures F1... whose files are f1.jpg..."""
    figs = "".join(
        f'<fig id="F{i}"><label>Figure {i}</label><caption><p>Caption {i} of {pmc}.</p></caption>'
        f'<graphic xlink:href="f{i}.jpg"/></fig>'
        for i in range(1, figures + 1)
    )
    return (
        '<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta>'
        f'<article-id pub-id-type="pmcid">{pmc}</article-id>'
        f"{front}</article-meta></front><body>{figs}{body}</body></article>"
    ).encode()


def write_tar(path: Path, members: Mapping[str, bytes], mode: str = "w:gz") -> Path:
    """An archive with these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]  # the mode is the caller's
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_package(folder: Path, pmc: str, figures: int = 1, seed: int = 0) -> Path:
    """A PMC package: XML, figures and their thumbnails."""
    members = {f"{pmc}/{pmc}.nxml": article_xml(pmc, figures)}
    for i in range(1, figures + 1):
        members[f"{pmc}/f{i}.jpg"] = picture(seed=1000 * seed + i)
        members[f"{pmc}/f{i}.gif"] = picture("gif", (40, 30))
    return write_tar(folder / f"{pmc}.tar.gz", members)


def media_of(files: Mapping[str, bytes], base: str = "") -> Media:
    return Media(frozenset(files), dict(files).__getitem__, base)


def rows_of(
    xml: bytes, files: Mapping[str, bytes], config: IngestConfig | None = None, name: str = "article"
) -> list[ArticleRows]:
    package = Package(f"test/{name}", name, xml, media_of(files))
    return list(extract(package, config or IngestConfig()))


def _content(suffix: str) -> bytes:
    return b"no picture" if suffix in ("mp4", "xlsx") else picture(suffix)


@pytest.fixture
def conform() -> Callable[..., ArticleRows]:
    """Extract one conformance article, every named file being there."""

    def run(name: str, files: list[str], engine: str = "biomedray") -> ArticleRows:
        data = {file: _content(Path(file).suffix.removeprefix(".") or "jpg") for file in files}
        [rows] = rows_of((CONFORMANCE / f"{name}.xml").read_bytes(), data, IngestConfig(engine=engine), name)  # type: ignore[arg-type]  # pydantic checks it
        return rows

    return run


@pytest.fixture(scope="session")
def make() -> object:
    """The helpers above, for test modules that can't import a conftest."""
    import types

    return types.SimpleNamespace(
        picture=picture,
        article_xml=article_xml,
        write_tar=write_tar,
        write_package=write_package,
        media_of=media_of,
        rows_of=rows_of,
    )


@pytest.fixture(scope="session")
def run_here() -> Callable[..., list[int]]:
    """A whole ingest in this process, without Ray and without a manifest; ``parts``: only stage the first so many."""
    from biomedray.ingest.pipeline import extract_part, settle_all
    from biomedray.ingest.population import fingerprint_refs, freeze, group, number_of_parts
    from biomedray.ingest.settle import clean_up
    from biomedray.ingest.sources import discover

    def run(source: Path, out: Path, config: IngestConfig, parts: int | None = None) -> list[int]:
        refs = discover([str(source)])
        n_parts = number_of_parts(len(refs), config.articles_per_part)
        frozen = freeze(out, group(refs, n_parts), fingerprint_refs(refs), n_parts)
        for part in list(frozen.sizes)[:parts]:
            extract_part(out, part, config)
        if parts is None:
            settle_all(out, list(frozen.sizes), config, progress=False, here=True)
            clean_up(out)
        return list(frozen.sizes)

    return run


@pytest.fixture(scope="session")
def servers(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """servers.py beside this file."""
    return load_module(Path(__file__).with_name("servers.py"))


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated mirror of PMC's bucket with every kind of damage; read only."""
    from biomedray.corpus import generate

    out = tmp_path_factory.mktemp("mirror") / "corpus"
    generate(out, articles=3, seed=3, layout="cloud", broken=0.1, progress=False)
    return out / "cloud"
