"""A hit of the index as the JSON object that callers and the page read."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from biomedray.serve.search import Hit

THUMBNAIL = 320
"""Pixels of the longest side, unless the service's limit is lower."""
PROXY_NOTE = (
    "These are published figures that resemble the image. "
    "A proxy is not a de-identified copy of it, and is not evidence about a patient."
)
"""What comes with every answer of a proxy search."""
_SHOWN = (
    "fig_label",
    "panel_label",
    "article_title",
    "journal",
    "year",
    "article_type",
    "license_group",
    "pmcid",
    "version",
    "doi",
    "image_kind",
    "split",
)
_PMCID = re.compile(r"PMC\d{1,12}")
_DOI = re.compile(r"10\.\d{4,9}/\S{1,300}")


def hit_answer(hit: Hit, rank: int, root: str = "", thumbnail: int = THUMBNAIL) -> dict[str, Any]:
    """schemas.HitAnswer of a hit; ``root`` is the path under which the service is mounted, ``thumbnail`` the size allowed."""
    record = hit.record
    url = f"{root}/v1/images/{quote(record['pair_id'], safe='/')}"
    return {
        "rank": rank,
        "pair_id": record["pair_id"],
        "score": round(hit.score, 6),
        "percentile": hit.percentile,
        "caption": record["caption"],
        **{name: record[name] for name in _SHOWN},
        "license": record["license_code"],
        "citation": citation(record),
        "links": {"pmc": pmc_link(record["pmcid"]), "doi": doi_link(record["doi"])},
        "image": {
            "url": url,
            "thumbnail": f"{url}?size={min(thumbnail, THUMBNAIL)}",
            "width": record["width"],
            "height": record["height"],
        },
    }


def proxy_answer(hit: Hit, rank: int, root: str = "", thumbnail: int = THUMBNAIL) -> dict[str, Any]:
    """schemas.ProxyHit of a hit: what is needed to fetch, use and cite a public figure, and nothing else."""
    whole = hit_answer(hit, rank, root, thumbnail)
    shown = ("rank", "pair_id", "score", "percentile", "license", "license_group", "citation", "fig_label", "links", "image")
    return {name: whole.get(name) for name in shown}


def no_proxy(best: float, wanted: float | None) -> str:
    """What is said when no public figure is near enough."""
    if wanted is None:
        return "No public figure passes these filters."
    return f"No good proxy: the nearest public figure that passes the filters has a similarity of {best:.3f}, below {wanted:g}."


def citation(record: dict[str, Any]) -> str:
    """One plain line by which the article is found; pairs hold no authors."""
    doi = record["doi"] if doi_link(record["doi"]) else None
    parts = (record["article_title"], record["journal"], record["year"], f"doi:{doi}" if doi else record["pmcid"])
    return " ".join(f"{' '.join(str(part).split()).rstrip('.')}." for part in parts if part)


def pmc_link(pmcid: str) -> str | None:
    """The article's page at PubMed Central, if the id is one of theirs."""
    return f"https://pmc.ncbi.nlm.nih.gov/articles/{pmcid}/" if _PMCID.fullmatch(pmcid) else None


def doi_link(doi: str | None) -> str | None:
    """The DOI as a link, if it has the form of one; the text comes from the article and is not trusted."""
    return f"https://doi.org/{quote(doi, safe='/().;:')}" if doi and _DOI.fullmatch(doi) else None
