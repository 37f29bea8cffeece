"""Options of 'biomedray ingest' that choose articles and stores; the command itself stands in cli.py."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

_WHICH = "Which articles (before any picture is read)"
_STORE = "Stores (s3://, https://)"


class Manuscripts(StrEnum):
    """What to do with author manuscripts."""

    IN = "in"
    OUT = "out"
    ONLY = "only"


def _words(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=f"{text}; may be repeated.", rich_help_panel=_WHICH)


Licenses = Annotated[list[str] | None, _words("--license", "LICENCE", "A code such as 'CC BY', or comm, noncomm, other")]
Journals = Annotated[list[str] | None, _words("--journal", "TITLE", "A journal's title, in any case; * stands for anything")]
Types = Annotated[list[str] | None, _words("--article-type", "TYPE", "JATS's type, such as research-article")]
Keywords = Annotated[list[str] | None, _words("--keyword", "WORD", "Stands in title, abstract or a caption; * ends a stem")]
Years = Annotated[str | None, typer.Option("--year", help="2018, 2015-2020, 2015- or -2020.", rich_help_panel=_WHICH)]
IdList = Annotated[
    Path | None, typer.Option("--pmcids", help="Only these: a file with PMC123 or PMC123.2 a line.", rich_help_panel=_WHICH)
]


def _also(name: str, text: str) -> Any:
    return typer.Option(f"--include-{name}", help=text, rich_help_panel=_WHICH)


Retracted = Annotated[bool, _also("retracted", "Also retracted articles.")]
Ocr = Annotated[bool, _also("historical-ocr", "Also scans with machine-read text.")]
Closed = Annotated[bool, _also("not-open-access", "Also what is there for text mining only.")]
Endpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar=["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"],
        help="An S3-compatible server other than Amazon's.",
        rich_help_panel=_STORE,
    ),
]
Signed = Annotated[bool, typer.Option("--signed", help="Sign with the credentials of AWS_*.", rich_help_panel=_STORE)]
Snapshot = Annotated[
    str | None, typer.Option(metavar="DATE", help="The inventory of this day, not the newest.", rich_help_panel=_STORE)
]
Media = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Pictures of bulk XML: a folder with PMC123/, PMC123.1/ or all side by side.",
        rich_help_panel=_WHICH,
    ),
]
ManuscriptOption = Annotated[
    Manuscripts | None, typer.Option(help="Author manuscripts in, out, or only these.", rich_help_panel=_WHICH)
]
