"""The parts of a page: facts, small tables, plots, pictures, and a sample that the reader can sift."""

from __future__ import annotations

from dataclasses import dataclass, field

from biomedray.report.pictures import Picture
from biomedray.report.plots import Plot


@dataclass(frozen=True)
class Grid:
    """A small table; ``note`` is a line below it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """A row of pictures under one heading; ``ranked`` ones are numbered and the gold one is marked."""

    title: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Answer:
    """One candidate that a query retrieves."""

    mark: str
    """Its place and similarity."""
    picture: str
    """Data URL; empty of a caption, and of a picture that nothing decodes."""
    caption: str
    source: str
    gold: bool
    beyond: bool = False
    """The gold candidate, shown although it is not among the first."""


@dataclass(frozen=True)
class Query:
    """A query with what it retrieves, best first: captions if it is a figure (``by_figure``), else figures."""

    by_figure: bool
    verdict: str
    picture: str
    """Data URL of the figure that is asked with."""
    caption: str
    source: str
    answers: list[Answer]


@dataclass(frozen=True)
class Queries:
    """Queries of one kind under a heading."""

    title: str
    note: str
    queries: list[Query]


@dataclass(frozen=True)
class Sample:
    """One pair that the reader can sift by split, licence and kind."""

    picture: Picture
    split: str
    license: str
    kind: str
    words: str
    """What a search on the page looks through, in lower case."""


@dataclass(frozen=True)
class Browser:
    """A sample with the values by which it can be sifted; works without a network, and without scripts shows all."""

    title: str
    note: str
    samples: list[Sample]

    @property
    def choices(self) -> list[tuple[str, list[str]]]:
        """Names and values of the three sieves."""
        return [(name, sorted({getattr(sample, name) for sample in self.samples})) for name in ("split", "license", "kind")]


@dataclass(frozen=True)
class Section:
    """One artifact's part of the page."""

    title: str
    lead: str
    facts: list[tuple[str, str]]
    grids: list[Grid] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    browser: Browser | None = None
    queries: list[Queries] = field(default_factory=list)
