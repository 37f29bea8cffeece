"""The dataset card, README.md: counts, licences, rejects, provenance, how to cite, what must not be done.

Written from the files and the manifest alone, without a date, so that the same artifact gives the same card.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from biomedray.artifacts import Manifest
from biomedray.export.settings import ExportConfig, Format
from biomedray.export.survey import Survey

_SHOWN = 15
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))

INTRO = (
    "Figures of open-access articles in PubMed Central (PMC), each with its caption, one row a picture. "
    "Research use only, not for diagnosis."
)
CITATION = """Cite the articles whose figures you show or study: every row has `pmcid`, `pmid` and `doi`. Name PubMed Central
(National Library of Medicine) as the source. The recipe is that of BiomedCLIP:

    @article{zhang2024biomedclip,
      title = {A Multimodal Biomedical Foundation Model Trained from Fifteen Million Image-Text Pairs},
      author = {Zhang, Sheng and Xu, Yanbo and Usuyama, Naoto and others},
      journal = {NEJM AI}, year = {2024}, volume = {2}, number = {1}, doi = {10.1056/AIoa2400640}
    }"""


@dataclass(frozen=True)
class Facts:
    """What a card is written from: the pairs artifact's manifest, its numbers, and what was exported of it."""

    pairs: Manifest
    fingerprint: str
    survey: Survey
    config: ExportConfig
    format: Format
    files: Mapping[str, str]
    """Pattern of the files, by the name of their split."""
    left_out: int = 0

    @property
    def name(self) -> str:
        """Name of the pairs artifact."""
        return self.pairs.name


def write_card(facts: Facts) -> str:
    """The whole card, YAML front matter first."""
    head = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True, width=1000)
    body = "\n\n".join(part for part in _parts(facts) if part)
    return f"---\n{head}---\n\n{body}\n"


def _front_matter(facts: Facts) -> dict[str, Any]:
    matter: dict[str, Any] = {
        "pretty_name": facts.name,
        "license": "other",
        "license_name": "per-article",
        "language": _languages(facts.survey),
        "task_categories": ["image-to-text", "text-to-image", "zero-shot-image-classification"],
        "tags": ["biology", "medical", "figures", "pubmed-central"],
        "size_categories": [next((name for limit, name in _SIZES if facts.survey.rows < limit), "10M<n<100M")],
    }
    if facts.files:
        data_files = [{"split": split, "path": pattern} for split, pattern in facts.files.items()]
        matter["configs"] = [{"config_name": "default", "data_files": data_files}]
    return matter


def _languages(survey: Survey) -> list[str]:
    codes = {code.lower().split("-")[0] for code in survey.counts["lang"] if code}
    return sorted(code for code in codes if len(code) in (2, 3) and code.isalpha()) or ["en"]


def _parts(facts: Facts) -> list[str]:
    survey = facts.survey
    return [
        f"# {facts.name}",
        INTRO,
        _selection(facts),
        "## Counts",
        _table("split", "pairs", survey.counts["split"]),
        _account(facts),
        "## Licences",
        "The licence is that of the article a row comes from (`license_code`); there is none for the whole.",
        _table("licence", "pairs", survey.counts["license_code"], none="none known"),
        "## What must not be done",
        "\n".join(f"- {rule}" for rule in rules(survey)),
        "## Pictures and captions",
        _sizes(survey),
        _table("journal", "pairs", survey.counts["journal"]),
        _table("year", "pairs", survey.counts["year"], by_key=True),
        _table("article type", "pairs", survey.counts["article_type"]),
        _table("format", "pairs", survey.counts["image_format"]),
        _table("flag", "pairs", survey.counts["flags"]),
        "## What is not in it",
        "What the ingest saw and did not keep, by reason; each has a row in the artifact's `rejects/`.",
        _table("stage: reason", "rows", Counter({f"{stage}: {reason}": n for (stage, reason), n in survey.rejects.items()})),
        "## Where it comes from",
        _provenance(facts),
        "## How to cite",
        CITATION,
    ]


def rules(survey: Survey) -> list[str]:
    """What the licences forbid, with the number of rows that each rule is about."""
    licences = survey.counts["license_code"]
    noncommercial = sum(n for code, n in licences.items() if "NC" in code.upper().split("-") or "BY-NC" in code.upper())
    no_derivatives = sum(n for code, n in licences.items() if "ND" in code.upper().split("-"))
    other = survey.counts["license_group"]["other"]
    third_party = survey.counts["fig_third_party"]["True"]
    return [
        f"{noncommercial:,} pairs are under a non-commercial licence (NC): not for commercial use.",
        f"{no_derivatives:,} pairs are under a licence without derivatives (ND): don't publish crops or changes of them.",
        f"{other:,} pairs have no Creative Commons licence on record: don't pass them on.",
        f"{third_party:,} pairs belong to somebody else than the article (`fig_rights`): its licence does not cover them.",
        "Every Creative Commons licence but CC0 asks for attribution: keep `pmcid` and `doi` with whatever you show.",
        "Pictures of patients are among them: don't try to find out who they are. Nothing here is fit for diagnosis.",
    ]


def _selection(facts: Facts) -> str:
    config = facts.config
    lines = [f"Splits: {', '.join(config.splits)}."]
    if config.where:
        lines.append(f"Only rows for which `{config.where}`.")
    if facts.left_out:
        lines.append(f"{facts.left_out:,} pictures that no strict loader can decode are left out.")
    return " ".join(lines)


def _account(facts: Facts) -> str:
    ledger = facts.survey.ledger
    seen = ledger["graphics"] + ledger["figures_without_graphic"]
    return (
        f"The artifact it is made from: {ledger['articles']:,} articles with {seen:,} graphics and figures without one, of which "
        f"{ledger['pairs']:,} became pairs and {ledger['rejects']:,} rejects. The split is by article."
    )


def _sizes(survey: Survey) -> str:
    return (
        f"{100 * survey.share_over('short_side', 336):.1f} % of the pictures are larger than 336 pixels on both sides. "
        f"Captions have {survey.mean('n_tokens'):.0f} words and marks on average (`n_tokens`, no tokenizer): "
        f"{100 * survey.share_over('n_tokens', 77):.1f} % over 77, {100 * survey.share_over('n_tokens', 256):.1f} % over 256."
    )


def _provenance(facts: Facts) -> str:
    manifest = facts.pairs
    inputs = [
        ", ".join(f"{key} {value}" for key, value in entry.items() if key not in ("path", "uri")) for entry in manifest.inputs
    ]
    versions = ", ".join(f"{name} {version}" for name, version in manifest.software.items())
    lines = [
        f"- pairs artifact: `{facts.name}`, manifest {facts.fingerprint}, schema version {manifest.schema_version}",
        *[f"- input: {text}" for text in inputs if text],
        f"- made with: {versions}",
        f"- export: {facts.format}, `{json.dumps(facts.config.resolved())}`",
        "- settings of the ingest:",
    ]
    settings = json.dumps(manifest.config, indent=1, sort_keys=True)
    return "\n".join(lines) + f"\n\n```json\n{settings}\n```"


def _table(name: str, what: str, counts: Counter[str], none: str = "none", by_key: bool = False) -> str:
    if not counts:
        return ""
    shown: Sequence[tuple[str, int]] = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if by_key:
        shown = sorted(counts.items())
    elif len(shown) > _SHOWN:
        rest = shown[_SHOWN - 1 :]
        shown = [*shown[: _SHOWN - 1], (f"{len(rest)} others", sum(n for _, n in rest))]
    lines = [f"| {_cell(key or none)} | {number:,} |" for key, number in shown]
    return "\n".join([f"| {name} | {what} |", "|---|---:|", *lines])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
