"""An article from its seed: topic, journal, figures, and the text that refers to them.

plan_article(seed, index, layout) -> Article     a function of its arguments alone: any number, any order
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from biomedray.corpus.captions import Prose
from biomedray.corpus.draw.canvas import Rng
from biomedray.corpus.figures import Desk, choose_kinds, extra_figure, plan_figure, random_context
from biomedray.corpus.grammar import chance, expand, pick, plain, sentence
from biomedray.corpus.kinds import all_kinds
from biomedray.corpus.plan import Article, Figure, Mention, Section, Stray
from biomedray.corpus.topics import CLOUD_DTD, LICENSE_WEIGHTS, LICENSES, Journal, journals, topics, vocabulary

BROKEN_BASE = 900_000
"""Serial numbers from here on are the damaged articles', so that they never depend on how many whole ones there are."""

_ALL_LICENSES = tuple(LICENSES)
_USUAL = Prose()


@dataclass
class _Draft:
    """What grows while the text is written."""

    rng: Rng
    journal: Journal
    context: dict[str, str]
    mentions: list[Mention] = field(default_factory=list)

    def filler(self, count: int) -> list[str]:
        """Sentences that refer to no figure."""
        chosen = self.rng.permutation(len(vocabulary()["filler"]))[:count]
        return [
            sentence(expand(self.rng, vocabulary()["filler"][i], self.context | {"cite": self.cite()})) for i in chosen.tolist()
        ]

    def cite(self) -> str:
        """A reference to the literature."""
        n = int(self.rng.integers(1, 6))
        return f'<xref ref-type="bibr" rid="B{n}">{n}</xref>'

    def refer(
        self, section: str, text: str, figures: tuple[str, ...], panels: dict[str, tuple[str, ...]], implied: tuple[str, ...] = ()
    ) -> str:
        """Note a sentence that refers to figures, and give it back."""
        self.mentions.append(Mention(section, plain(text), figures, panels, implied))
        return text


def serial_number(seed: int, index: int) -> int:
    """The digits of an article's PMCID: eight of them, different for different seeds (modulo 80)."""
    return 10_000_000 + (seed % 80) * 1_000_000 + index


def plan_article(seed: int, index: int, layout: str, simple: bool = False, prose: Prose = _USUAL) -> Article:
    """Article ``index`` of the corpus of ``seed``; ``simple`` ones have plain figures only (for damage to hit)."""
    rng = np.random.default_rng([seed, index])
    serial = serial_number(seed, index)
    words = vocabulary()
    topic = topics()[int(rng.integers(len(topics())))]
    journal = journals()[0 if simple else int(rng.integers(len(journals())))]
    context = random_context(rng, pick(rng, topic.conditions), pick(rng, words["drugs"]), pick(rng, words["surnames"]))
    desk = Desk(rng, (seed, index), serial, layout, topic, journal, context, prose)
    figures = _simple_figures(desk) if simple else _figures(desk)
    draft = _Draft(rng, journal, context)
    sections = _sections(draft, figures)
    strays = () if simple else _strays(desk)
    cloud = layout == "cloud"
    return Article(
        index=index,
        pmcid=f"PMC{serial}",
        version=2 if cloud and not simple and chance(rng, 0.1) else 1,
        layout=layout,
        topic=topic,
        context=context,
        journal=journal,
        dtd=pick(rng, CLOUD_DTD) if cloud else journal.dtd,
        license_code="CC BY" if simple else str(rng.choice(_ALL_LICENSES, p=LICENSE_WEIGHTS)),
        title=sentence(expand(rng, pick(rng, words["titles"]), context)).removesuffix("."),
        doi=f"10.5555/generated.{serial}",
        pmid=None if chance(rng, 0.1) else str(serial + 20_000_000),
        year=int(rng.integers(2006, 2027)),
        article_type=pick(rng, ("research-article", "research-article", "case-report", "review-article")),
        authors=tuple((pick(rng, words["surnames"]), pick(rng, words["given"])) for _ in range(int(rng.integers(2, 6)))),
        abstract=" ".join(draft.filler(4)),
        sections=sections,
        figures=figures,
        strays=strays,
        mentions=tuple(draft.mentions),
        features=_features(journal, figures, strays),
    )


def _figures(desk: Desk) -> tuple[Figure, ...]:
    kinds = choose_kinds(desk.rng, desk.topic, int(desk.rng.choice((3, 4, 5), p=(0.6, 0.28, 0.12))))
    figures = [plan_figure(desk, kind, n) for n, kind in enumerate(kinds, 1)]
    extras = (
        ("boxed-text", "box1", "Box 1 Figure.", 0.05),
        ("app", "a1", "Figure A1", 0.05),
        ("sub-article", "r1", "Author response image 1.", 0.05),
        ("abstract", "ga", None, 0.07),
    )
    for container, code, label, share in extras:
        if chance(desk.rng, share):
            figures.append(extra_figure(desk, choose_kinds(desk.rng, desk.topic, 1)[0], container, code, label))
    return tuple(figures)


def _simple_figures(desk: Desk) -> tuple[Figure, ...]:
    """Three single pictures, the first a photograph in a JPEG."""
    figures = []
    for n, kind in enumerate(("histology", "bar_chart", "fluorescence"), 1):
        figure = plan_figure(desk, kind, n)
        while (
            figure.construct != "plain"
            or len(figure.graphics[0].panels) > 1
            or figure.graphics[0].file != f"{figure.graphics[0].href.removesuffix('.jpg')}.jpg"
        ):
            figure = plan_figure(desk, kind, n)
        figures.append(figure)
    return tuple(figures)


def _strays(desk: Desk) -> tuple[Stray, ...]:
    """Graphics that are no figures and must not become pairs."""
    strays = []
    for container, code, share in (("table-wrap", "t001", 0.1), ("disp-formula", "e001", 0.08), ("p", "x001", 0.04)):
        if chance(desk.rng, share):
            stem = f"{desk.journal.href.format(i=desk.serial, n='')}{code}"
            strays.append(Stray(container, stem if desk.layout == "package" else f"{stem}.jpg", f"{stem}.jpg", f"{code} = a + b"))
    return tuple(strays)


def _features(journal: Journal, figures: tuple[Figure, ...], strays: tuple[Stray, ...]) -> tuple[str, ...]:
    """The XML constructions that an article uses, for tests and tables."""
    found = (
        {figure.construct for figure in figures}
        | {figure.container for figure in figures}
        | {stray.container for stray in strays}
    )
    found |= {"floats-group"} if journal.floats else set()
    found |= {"rights"} if any(figure.rights for figure in figures) else set()
    return tuple(sorted(found - {"plain", "body"}))


def _sections(draft: _Draft, figures: tuple[Figure, ...]) -> tuple[Section, ...]:
    main = [(i, figure) for i, figure in enumerate(figures) if figure.number is not None]
    results = tuple(_result(draft, i, figure) for i, figure in main)
    discussion = [*draft.filler(2), *_wide_mentions(draft, [figure for _, figure in main]), *draft.filler(1)]
    return (
        Section("Introduction", (" ".join(draft.filler(3)),)),
        Section("Materials and methods", (" ".join(draft.filler(3)), " ".join(draft.filler(2)))),
        Section("Results", (), results),
        Section("Discussion", (" ".join(discussion),)),
    )


def _result(draft: _Draft, index: int, figure: Figure) -> Section:
    """A subsection of the results: sentences that refer to one figure, in other words than its caption's."""
    kind = all_kinds()[next(figure.walk()).graphics[0].panels[0].kind]
    title = plain(sentence(expand(draft.rng, f"{kind.noun} [in {{condition}}|findings]", draft.context)).removesuffix("."))
    sentences = [*_mentions(draft, title, figure), *draft.filler(int(draft.rng.integers(1, 3)))]
    return Section(title, (" ".join(sentences),), figures=(index,))


def _mentions(draft: _Draft, section: str, figure: Figure) -> list[str]:
    rng, sentences = draft.rng, []
    shown = figure if figure.graphics else figure.children[0]
    panels = [panel for graphic in shown.graphics if graphic.chosen for panel in graphic.panels]
    lettered = [panel for panel in panels if panel.label is not None]
    for panel in lettered[: int(rng.integers(1, 4))] or panels[:1]:
        phrase = all_kinds()[panel.kind].phrase(rng, panel.attributes, draft.context)
        letters: tuple[str, ...] = (str(panel.label),) if panel.label else ()
        sentences.append(_mention(draft, section, figure, phrase, letters))
    if len(lettered) > 2 and chance(rng, 0.5):
        letters = tuple(str(panel.label) for panel in lettered)
        sentences.append(_mention(draft, section, figure, "[further detail|the whole series|all panels]", letters))
    return sentences


def _mention(draft: _Draft, section: str, figure: Figure, phrase: str, letters: tuple[str, ...]) -> str:
    said = letters[0] if len(letters) == 1 else (f"{letters[0]}\N{EN DASH}{letters[-1]}" if letters else "")
    slots = draft.context | {"phrase": phrase, "ref": _xref(draft, figure, said), "cite": draft.cite()}
    text = sentence(expand(draft.rng, pick(draft.rng, vocabulary()["mentions"]), slots))
    return draft.refer(section, text, (figure.fig_id,), {figure.fig_id: letters} if letters else {})


def _xref(draft: _Draft, figure: Figure, letters: str) -> str:
    name = draft.journal.reference.format(n=figure.number)
    inside, outside = (letters, "") if draft.journal.panel_inside else ("", letters)
    return f'<xref ref-type="fig" rid="{figure.fig_id}">{name}{inside}</xref>{outside}'


def _wide_mentions(draft: _Draft, figures: list[Figure]) -> list[str]:
    """Sentences that refer to several figures: a range, or one xref with several rids."""
    first, second, last = figures[0], figures[1], figures[-1]
    plural = draft.journal.plural
    if chance(draft.rng, 0.5):
        from_first = f'<xref ref-type="fig" rid="{first.fig_id}">{plural.format(n=1)}</xref>'
        reference = f'{from_first}\N{EN DASH}<xref ref-type="fig" rid="{last.fig_id}">{last.number}</xref>'
        text = f"The findings were consistent across experiments ({reference})."
        named = (first.fig_id, last.fig_id)
        return [draft.refer("Discussion", text, named, {}, tuple(figure.fig_id for figure in figures[1:-1]))]
    reference = f'<xref ref-type="fig" rid="{first.fig_id} {second.fig_id}">{plural.format(n="1 and 2")}</xref>'
    return [
        draft.refer("Discussion", f"Two lines of evidence ({reference}) support this view.", (first.fig_id, second.fig_id), {})
    ]
