"""The plan of an article: frozen records of everything that its XML, its pictures and its truth will say.

(seed, index) -> Article( sections( paragraphs with mentions ), figures( caption, graphics( panels ) ) )
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from biomedray.corpus.draw.canvas import Size
from biomedray.corpus.topics import Journal, Topic

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Panel:
    """One picture within a graphic; ``box`` is (x0, y0, x1, y1) in pixels; no label when it stands alone."""

    label: str | None
    kind: str
    attributes: dict[str, Any]
    box: Box


@dataclass(frozen=True)
class Graphic:
    """One ``<graphic>`` and its file: ``href`` as in the XML, ``file`` in the folder (None: not deposited)."""

    href: str
    file: str | None
    size: Size
    panels: tuple[Panel, ...]
    seed: tuple[int, ...]
    label_style: str = "{p}"
    label_outside: bool = False
    chosen: bool = True
    """False for the member of ``<alternatives>`` that a better one stands for."""


@dataclass(frozen=True)
class SubCaption:
    """The part of a caption that speaks of some panels; the span is in the clean caption, without the marker."""

    labels: tuple[str, ...]
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Caption:
    """A caption as XML fragments, and as the clean text: title and paragraphs joined by single spaces."""

    title: str | None
    paragraphs: tuple[str, ...]
    text: str
    parts: tuple[SubCaption, ...] = ()


@dataclass(frozen=True)
class Figure:
    """One ``<fig>``; ``construct`` says how the XML is built around it."""

    fig_id: str
    label: str | None
    caption: Caption
    graphics: tuple[Graphic, ...]
    construct: str = "plain"
    container: str = "body"
    number: int | None = None
    rights: str | None = None
    parent_id: str | None = None
    role: str = "figure"
    """figure; member of a fig-group, which holds the caption; or supplement within another figure."""
    children: tuple[Figure, ...] = ()
    """Members of a fig-group (construct "group") or figure supplements (construct "nested")."""

    def walk(self) -> Iterator[Figure]:
        """The figures that hold graphics, in document order: this one and its supplements, or a group's members."""
        if self.construct != "group":
            yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class Mention:
    """A sentence that refers to figures; ``panels`` by figure id; ``implied`` are inside a range but not named."""

    section: str
    text: str
    figures: tuple[str, ...]
    panels: dict[str, tuple[str, ...]]
    implied: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A section; paragraphs are XML fragments, ``figures`` are indices of Article.figures placed at its end."""

    title: str
    paragraphs: tuple[str, ...]
    sections: tuple[Section, ...] = ()
    figures: tuple[int, ...] = ()


@dataclass(frozen=True)
class Stray:
    """A ``<graphic>`` that is no figure: in a table-wrap, a formula or a bare paragraph."""

    container: str
    href: str
    file: str
    text: str


@dataclass(frozen=True)
class Article:
    """Everything an article says."""

    index: int
    pmcid: str
    version: int
    layout: str
    topic: Topic
    context: dict[str, str]
    journal: Journal
    dtd: str
    license_code: str
    title: str
    doi: str
    pmid: str | None
    year: int
    article_type: str
    authors: tuple[tuple[str, str], ...]
    abstract: str
    sections: tuple[Section, ...]
    figures: tuple[Figure, ...]
    strays: tuple[Stray, ...] = ()
    mentions: tuple[Mention, ...] = ()
    features: tuple[str, ...] = field(default=())

    @property
    def stem(self) -> str:
        """Base name of the article's own files in the cloud layout."""
        return f"{self.pmcid}.{self.version}"
