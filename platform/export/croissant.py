"""The same facts for machines: Croissant 1.0 JSON-LD (mlcommons.org/croissant), which dataset search engines read."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from biomedray.artifacts import Manifest
from biomedray.export.card import INTRO, Facts, rules
from biomedray.records import PAIR_SCHEMA

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_ENCODINGS = {
    "webdataset": "application/x-tar",
    "jsonl": "application/jsonlines",
    "huggingface": "application/x-parquet",
    "card": "application/x-parquet",
}
_JSONL_FIELDS = ("pmid", "pmc", "location", "figures")


def croissant(facts: Facts) -> dict[str, Any]:
    """The JSON-LD of a folder; the patterns of its files are relative to it."""
    survey = facts.survey
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": facts.name,
        "description": f"{INTRO} {survey.rows:,} pairs from PubMed Central; the licence is per article (license_code).",
        "license": sorted(code or "none known" for code in survey.counts["license_code"]) or ["none known"],
        "url": "https://pmc.ncbi.nlm.nih.gov/tools/openftlist/",
        "version": f"{facts.pairs.schema_version}.0.0",
        "citeAs": "doi:10.1056/AIoa2400640",
        "creator": {"@type": "sc:Organization", "name": "The articles' authors, by way of PubMed Central and biomedray"},
        "keywords": ["biomedicine", "figures", "captions", "PubMed Central"],
        "rai:dataLimitations": rules(survey),
        "rai:dataCollection": _collection(facts.pairs),
        "distribution": [_files(facts, split) for split in facts.files],
        "recordSet": [_records(facts, split) for split in facts.files],
    }


def _collection(manifest: Manifest) -> str:
    inputs = ["; ".join(f"{key} {value}" for key, value in entry.items() if key != "path") for entry in manifest.inputs]
    return f"biomedray {manifest.software.get('biomedray', '')}: {' | '.join(inputs)}".strip()


def _files(facts: Facts, split: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"files-{split}",
        "name": f"files-{split}",
        "description": f"Files of the split '{split}'.",
        "encodingFormat": _ENCODINGS[facts.format],
        "includes": facts.files[split],
    }


def _records(facts: Facts, split: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"{'Articles' if facts.format == 'jsonl' else 'Pairs of picture and caption'} of the split '{split}'.",
        "field": _fields(facts, split),
    }


def _fields(facts: Facts, split: str) -> list[dict[str, Any]]:
    if facts.format == "jsonl":
        return [_field(split, name, "sc:Text", {"jsonPath": f"$.{name}"}) for name in _JSONL_FIELDS]
    if facts.format == "webdataset":
        return [_field(split, "file", "sc:Text", {"fileProperty": "fullpath"})]
    fields = []
    for name in PAIR_SCHEMA.names:
        kind = PAIR_SCHEMA.field(name).type
        if name != "image_copy" and not pa.types.is_nested(kind):
            fields.append(_field(split, name, _data_type(name, kind), {"column": name}))
    if facts.format == "huggingface":  # the column is a struct of bytes and path
        next(field for field in fields if field["name"] == "image")["source"]["transform"] = {"jsonPath": "bytes"}
    return fields


def _field(split: str, name: str, kind: str, extract: dict[str, str]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{split}/{name}",
        "name": name,
        "description": f"{name}; see docs/reference/pairs.md",
        "dataType": kind,
        "source": {"fileSet": {"@id": f"files-{split}"}, "extract": extract},
    }


def _data_type(name: str, kind: pa.DataType) -> str:
    if name == "image":
        return "sc:ImageObject"
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
