"""From a package to rows: the pairs, rejects and ledger line of each article in it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from biomedray.errors import WorkError
from biomedray.ingest.captions import count_tokens
from biomedray.ingest.citances import Citance, find_citances
from biomedray.ingest.figures import Figure, Inventory, Unit, read_figures
from biomedray.ingest.images import FigureImage, ImageError, Media, format_rank, load
from biomedray.ingest.jats import ArticleTree, XmlError, bound_text, parse_articles
from biomedray.ingest.language import caption_language, is_short
from biomedray.ingest.meta import ArticleMeta, read_meta
from biomedray.ingest.packages import Package, Refused
from biomedray.ingest.pubmed import replace_by_pubmed
from biomedray.ingest.selection import known_license, not_selected, searched_texts
from biomedray.ingest.settings import IngestConfig, parse_filters
from biomedray.ingest.split import assign_split, dup_cluster
from biomedray.records import Reason, Split, Stage, license_group, make_pair_id
from biomedray.where import Where

_MARKUP_SIZE = 32
_REAL_PMCID = re.compile(r"PMC\d+")


@dataclass
class ArticleRows:
    """Rows of one article (or refused source), ready for the tables of records.py."""

    ledger: dict[str, Any]
    pairs: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Article:
    """One article being turned into rows."""

    uri: str
    pmcid: str
    version: int
    split: Split
    meta: ArticleMeta
    license_code: str | None
    md5: str
    flags: tuple[str, ...]
    detect_language: bool


def extract(item: Package | Refused, config: IngestConfig) -> Iterator[ArticleRows]:
    """The rows of a package: one article as a rule, several where an XML wraps several; never raises for bad input."""
    if isinstance(item, Refused):
        yield refused_rows(item)
        return
    try:
        trees = parse_articles(item.xml) if item.trees is None else item.trees
    except Exception as error:  # noqa: BLE001  # see _surprise
        yield refused_rows(_unreadable(item, item.uri, error))
        return
    for number, tree in enumerate(trees):
        uri = item.uri if number == 0 else f"{item.uri}#{number + 1}"
        try:
            inventory = read_figures(tree.root, tree.found) if item.figures is None else item.figures[number]
            yield _extract_tree(item, tree, inventory, uri, config)
        except WorkError:  # a store that went away while a picture was read says nothing of the article
            raise
        except Exception as error:  # noqa: BLE001  # see _surprise
            yield refused_rows(_unreadable(item, uri, error))


def _unreadable(package: Package, uri: str, error: Exception) -> Refused:
    if isinstance(error, XmlError):
        return Refused(uri, error.reason, str(error), Stage.ARTICLE, *_claimed(package))
    return _surprise(package, uri, error)


def _surprise(package: Package, uri: str, error: Exception) -> Refused:
    """One article's surprise must not end a run of millions; the reject says what it was."""
    detail = f"{type(error).__name__}: {error}"[:200]
    return Refused(uri, Reason.ENGINE_FAILED, detail, Stage.ARTICLE, *_claimed(package))


def refused_rows(refused: Refused) -> ArticleRows:
    """One article-level reject; nothing of the article is counted."""
    row = _reject_row(refused.uri, refused.pmcid, refused.version, refused.stage, refused.reason, refused.detail)
    return ArticleRows(_ledger_row(refused.uri, refused.pmcid, refused.version, None, None, 0, 0, 1), rejects=[row])


def _claimed(package: Package) -> tuple[str | None, int | None]:
    """The id that a package's name gives, where its XML gives none."""
    return _safe_id(package.fallback_id), package.version


def _safe_id(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-") or "article"


@cache
def extractor_version() -> str:
    """Name and version of this extractor, for provenance."""
    try:
        return f"biomedray {version('biomedray')}"
    except PackageNotFoundError:
        return "biomedray (not installed)"


def _extract_tree(package: Package, tree: ArticleTree, inventory: Inventory, uri: str, config: IngestConfig) -> ArticleRows:
    article = _describe(package, tree, uri, config)
    if detail := _unwanted(article, tree, inventory, config):
        return refused_rows(Refused(uri, Reason.NOT_SELECTED, detail, Stage.ARTICLE, article.pmcid, article.version))
    citances = find_citances(inventory)
    if config.engine == "pubmed_parser":
        inventory = replace_by_pubmed(package.xml, inventory)
    bound_text(sum(figure.n_graphics * _text_size(figure, citances) for figure in inventory.figures))
    filters = parse_filters(config.filters)
    pairs: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    for unit, image in _decide(inventory.units, package.media, config):
        if not isinstance(image, FigureImage):
            rejects.append(_unit_reject(article, unit, image))
            continue
        row = _pair_row(article, unit, image, citances)
        if failed := next((each for each in filters if not each.holds(row)), None):
            rejects.append(_unit_reject(article, unit, (Reason.FILTERED, _why(failed, row))))
        else:
            pairs.append(row)
    kept, lost = len(pairs), len(rejects)
    if not inventory.units:
        detail = "no <fig> and no <graphic> in the XML"
        rejects.append(_reject_row(uri, article.pmcid, article.version, Stage.ARTICLE, Reason.NO_FIGURES, detail))
    ledger = _ledger_row(uri, article.pmcid, article.version, article.split, inventory, kept, lost, len(rejects) - lost)
    known = {"doi": article.meta.doi, "article_title": article.meta.title, "source_md5": article.md5}
    return ArticleRows(ledger | known | {"related_dois": list(article.meta.related_dois)}, pairs, rejects)


def _text_size(figure: Figure, citances: dict[str, list[Citance]]) -> int:
    """Characters that each pair of a figure holds; a place in a caption counts as some."""
    cited = sum(len(citance.text) + len(citance.section or "") for citance in citances.get(figure.fig_id, ()))
    caption = figure.caption
    return cited + (len(caption.text) + len(caption.raw) + _MARKUP_SIZE * len(caption.markup) if caption else 0)


def first_files(package: Package, tree: ArticleTree, inventory: Inventory, config: IngestConfig) -> Iterator[str]:
    """The file that each picture of an article will be tried with first; none of an article that isn't selected."""
    if _unwanted(_describe(package, tree, package.uri, config), tree, inventory, config):
        return
    for alternatives in _pictures(u for u in inventory.units if u.reject is None and u.figure is not None).values():
        best = min(alternatives, key=lambda u: _preference(u, package.media))
        yield from package.media.candidates(best.href or "")[:1]


def _unwanted(article: _Article, tree: ArticleTree, inventory: Inventory, config: IngestConfig) -> str | None:
    """What the run's selection has against an article, by its XML."""
    captions = (figure.caption.text for figure in inventory.figures if figure.caption is not None)
    texts = searched_texts(tree.root, article.meta.title, captions)
    return not_selected(config.select, (article.pmcid, article.version), article.license_code, article.meta, texts)


def _describe(package: Package, tree: ArticleTree, uri: str, config: IngestConfig) -> _Article:
    meta = read_meta(tree.root)
    pmcid = meta.pmcid or _safe_id(package.fallback_id)
    return _Article(
        uri=uri,
        pmcid=pmcid,
        version=meta.version or package.version or 1,
        split=assign_split(pmcid, config.seed, config.val_fraction, config.test_fraction),
        meta=ArticleMeta(**{**vars(meta), "pmid": meta.pmid or package.pmid, "doi": meta.doi or package.doi}),
        license_code=known_license(package.license_code) or meta.license_code or known_license(package.fallback_license),
        md5=hashlib.md5(package.xml, usedforsecurity=False).hexdigest(),
        flags=(*package.flags, *tree.flags, *(() if _REAL_PMCID.fullmatch(pmcid) else ("no_pmcid",))),
        detect_language=config.detect_language,
    )


Decision = tuple[Unit, FigureImage | tuple[Reason, str | None]]


def _decide(units: Iterable[Unit], media: Media, config: IngestConfig) -> Iterator[Decision]:
    """Each unit with its image, or with the reason why there is none."""
    candidates: list[Unit] = []
    for unit in units:
        if unit.reject is not None or unit.figure is None:
            yield unit, (unit.reject or Reason.NOT_IN_FIGURE, unit.detail)
        else:
            candidates.append(unit)
    for alternatives in _pictures(candidates).values():
        yield from _choose(alternatives, media, config)


def _pictures(units: Iterable[Unit]) -> dict[tuple[str, int], list[Unit]]:
    """Units that stand for the same picture."""
    found: dict[tuple[str, int], list[Unit]] = {}
    for unit in units:
        assert unit.figure is not None
        found.setdefault((unit.figure.fig_id, unit.graphic_index), []).append(unit)
    return found


def _choose(alternatives: list[Unit], media: Media, config: IngestConfig) -> Iterator[Decision]:
    """The best of the alternatives that can be read becomes the pair; those of lower rank were not needed."""
    chosen: str | None = None
    in_order = sorted(alternatives, key=lambda u: _preference(u, media)) if len(alternatives) > 1 else alternatives
    for unit in in_order:
        assert unit.href is not None
        if chosen is not None:
            yield unit, (Reason.ALTERNATIVE_NOT_CHOSEN, f"{chosen} was chosen")
            continue
        try:
            image = load(media, unit.href, config)
        except ImageError as error:
            yield unit, (error.reason, str(error))
        else:
            chosen = unit.href
            yield unit, image


def _preference(unit: Unit, media: Media) -> tuple[bool, bool, bool, bool, int]:
    """A file that is there, no thumbnail, in the caption's language, under this very name, the better format."""
    assert unit.href is not None
    files = media.candidates(unit.href)
    exact = bool(files) and files[0].rpartition("/")[2] == unit.href.rpartition("/")[2]
    return (not files, unit.thumbnail, unit.foreign, not exact, format_rank(files[0] if files and not exact else unit.href))


def _pair_row(article: _Article, unit: Unit, image: FigureImage, citances: dict[str, list[Citance]]) -> dict[str, Any]:
    figure, meta = unit.figure, article.meta
    assert figure is not None
    assert figure.caption is not None
    caption = figure.caption
    short = ("short_caption",) if is_short(caption.text) else ()
    return {
        "pair_id": make_pair_id(article.pmcid, article.version, figure.fig_id, unit.graphic_index),
        "pmcid": article.pmcid,
        "version": article.version,
        "pmid": meta.pmid,
        "doi": meta.doi,
        "article_title": meta.title,
        "journal": meta.journal,
        "year": meta.year,
        "article_type": meta.article_type,
        "license_code": article.license_code,
        "license_group": license_group(article.license_code),
        "fig_rights": caption.rights,
        "fig_third_party": caption.third_party,
        "fig_id": figure.fig_id,
        "fig_label": figure.label,
        "fig_parent_id": figure.parent_id,
        "container": figure.container,
        "graphic_index": unit.graphic_index,
        "n_graphics": figure.n_graphics,
        "graphic_ref": unit.href,
        "image": image.data,
        "image_format": image.format,
        "image_mode": image.mode,
        "n_frames": image.frames,
        "width": image.width,
        "height": image.height,
        "flags": list(dict.fromkeys([*article.flags, *figure.flags, *short, *image.flags])),
        "image_sha256": image.sha256,
        "image_copy": image.copy,
        **vars(image.quality),
        "caption": caption.text,
        "caption_raw": caption.raw,
        "caption_title": caption.title,
        "caption_markup": [markup._asdict() for markup in caption.markup],
        "citances": [citance._asdict() for citance in citances.get(figure.fig_id, ())],
        "n_tokens": count_tokens(caption.text),
        "lang": caption_language(caption.text, figure.lang, article.detect_language),
        "split": article.split,
        "dup_cluster": dup_cluster(image.sha256),
        "article_cluster": article.pmcid,
        "source_uri": article.uri,
        "source_md5": article.md5,
        "extractor_version": extractor_version(),
    }


def _why(failed: Where, row: dict[str, Any]) -> str:
    """The condition and the values that failed it."""
    values = ", ".join(f"{name} = {row[name]!r}" for name in failed.columns)
    return f"{failed.text}: {values}"[:300]


def _unit_reject(article: _Article, unit: Unit, why: tuple[Reason, str | None]) -> dict[str, Any]:
    of_figure = unit.reject is not None or why[0] in (Reason.ALTERNATIVE_NOT_CHOSEN, Reason.FILTERED)
    stage = Stage.FIGURE if of_figure else Stage.IMAGE
    row = _reject_row(article.uri, article.pmcid, article.version, stage, *why)
    return {**row, "fig_id": unit.figure.fig_id if unit.figure else None, "graphic_ref": unit.href}


def _reject_row(
    uri: str, pmcid: str | None, version: int | None, stage: Stage, reason: Reason, detail: str | None
) -> dict[str, Any]:
    return {
        "pmcid": pmcid,
        "version": version,
        "source_uri": uri,
        "fig_id": None,
        "graphic_ref": None,
        "stage": stage.value,
        "reason": reason.value,
        "detail": detail,
    }


def _ledger_row(
    uri: str,
    pmcid: str | None,
    version: int | None,
    split: Split | None,
    inventory: Inventory | None,
    pairs: int,
    rejects: int,
    article_rejects: int,
) -> dict[str, Any]:
    return {
        "source_uri": uri,
        "pmcid": pmcid,
        "version": version,
        "split": split,
        "figures": inventory.n_figures if inventory else 0,
        "graphics": inventory.n_graphics if inventory else 0,
        "figures_without_graphic": inventory.n_without_graphic if inventory else 0,
        "pairs": pairs,
        "rejects": rejects,
        "article_rejects": article_rejects,
    }
