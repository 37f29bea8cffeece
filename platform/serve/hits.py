"""A hit of the index as the JSON object that callers and the page read."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from biomedray.serve.search import Hit

THUMBNAIL = 320
_PMCID = re.compile(r"PMC\d{1,12}")
_DOI = re.compile(r"10\.\d{4,9}/\S{1,300}")


def hit_answer(hit: Hit, rank: int, root: str = "") -> dict[str, Any]:
    """schemas.HitAnswer of a hit; ``root`` is the path under which the service is mounted."""
    record = hit.record
    url = f"{root}/v1/images/{quote(record['pair_id'], safe='/')}"
    shown = ("fig_label", "article_title", "journal", "year", "article_type", "license_group", "pmcid", "version", "doi", "split")
    return {
        "rank": rank,
        "pair_id": record["pair_id"],
        "score": round(hit.score, 6),
        "caption": record["caption"],
        **{name: record[name] for name in shown},
        "license": record["license_code"],
        "links": {"pmc": pmc_link(record["pmcid"]), "doi": doi_link(record["doi"])},
        "image": {
            "url": url,
            "thumbnail": f"{url}?size={THUMBNAIL}",
            "width": record["width"],
            "height": record["height"],
        },
    }


def pmc_link(pmcid: str) -> str | None:
    """The article's page at PubMed Central, if the id is one of theirs."""
    return f"https://pmc.ncbi.nlm.nih.gov/articles/{pmcid}/" if _PMCID.fullmatch(pmcid) else None


def doi_link(doi: str | None) -> str | None:
    """The DOI as a link, if it has the form of one; the text comes from the article and is not trusted."""
    return f"https://doi.org/{quote(doi, safe='/().;:')}" if doi and _DOI.fullmatch(doi) else None
