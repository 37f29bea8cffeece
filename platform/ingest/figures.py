r"""From an article's tree to its units of account: each ``<graphic>``, and each ``<fig>`` without one.

<graphic> --nearest of--> formula: FORMULA_GRAPHIC   table: TABLE_GRAPHIC   fig: candidate   none: NOT_IN_FIGURE
candidates of a fig: <alternatives> count as one picture, several graphics as several pictures
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from biomedray.ingest.captions import Caption, CaptionText, language, read_caption, read_label
from biomedray.ingest.images import is_raster_name
from biomedray.ingest.jats import XML_LANG, ByTag, Element, elements_by_tag, href
from biomedray.ingest.rights import Holders
from biomedray.records import Reason

_FORMULA = frozenset(
    ["disp-formula", "inline-formula", "disp-formula-group", "chem-struct", "chem-struct-wrap", "chem-struct-wrapper"]
)
_TABLE = frozenset(["table-wrap", "table-wrap-group", "table-wrap-foot", "oasis:table"])
_FIGURE = frozenset(("fig", "fig-group"))
_PARTS = ("sub-article", "response")
_FLOATS = frozenset(("floats-group", "floats-wrap"))


@dataclass(frozen=True)
class Figure:
    """A ``<fig>`` as the XML describes it; ids are unique within the article."""

    fig_id: str
    xml_id: str | None
    label: str | None
    parent_id: str | None
    container: str
    caption: Caption | None
    lang: str | None
    flags: tuple[str, ...]
    n_graphics: int
    nested: bool
    scope: int = 0
    """Which part of the article holds it: 0 the article itself, then its sub-articles and responses as they come."""


@dataclass(frozen=True)
class Unit:
    """One unit of account; ``reject`` where the XML alone decides.

    Units of one figure with the same ``graphic_index`` are alternatives: at most one becomes a pair.
    """

    figure: Figure | None
    href: str | None
    graphic_index: int = 0
    thumbnail: bool = False
    foreign: bool = False
    """Whether it is the picture in another language than the caption's."""
    reject: Reason | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Inventory:
    """All units of an article, in document order of their figures, and what was counted in the XML."""

    units: tuple[Unit, ...]
    figures: tuple[Figure, ...]
    n_figures: int
    n_graphics: int
    n_without_graphic: int
    survey: Survey


_Other = tuple[Element, Element | None, Reason | None]


class Survey:
    """The elements of an article that figures are about, in document order; ``found``: by tag, where they are known."""

    def __init__(self, article: Element, found: ByTag | None = None) -> None:
        self.article = article
        self.by_tag = elements_by_tag(article) if found is None else found
        self.figures: list[Element] = self.by_tag["fig"]
        if self.by_tag["fig-group"]:
            self.figures = list(article.iter(*_FIGURE))
        parts = self.by_tag["sub-article"] + self.by_tag["response"]
        self._part = {element: number for number, element in enumerate(parts, 1)}

    def scopes(self, element: Element) -> Iterator[int]:
        """The parts around an element within which ids and numbers of figures are meant, innermost first.

        Sub-articles and responses have numbers from 1; the article itself, 0, comes last.
        """
        if self._part:
            for above in element.iterancestors(*_PARTS):
                if above in self._part:
                    yield self._part[above]
        yield 0


def read_figures(article: Element, found: ByTag | None = None) -> Inventory:
    """The figures and units of an article; ``found``: its elements by tag, as ``parse_articles`` gives them."""
    survey = Survey(article, found)
    graphics = survey.by_tag["graphic"]
    owned: dict[Element, list[Element]] = {}
    others: list[_Other] = []
    units: list[Unit] = []
    for graphic in graphics:
        owner, reject = _owner(graphic)
        if reject is None and owner is not None:
            owned.setdefault(owner, []).append(graphic)
        else:
            others.append((graphic, owner, reject))
    others += _symbols(owned)
    drawn = _drawn_formulas(others, owned)
    for graphic, owner, reject in others:
        if graphic in drawn:
            owned.setdefault(owner, []).append(graphic)
        else:
            units.append(Unit(None, href(graphic), reject=reject, detail=_where(graphic, owner)))
    with_graphic = {figure for graphic in graphics if (figure := next(graphic.iterancestors("fig"), None)) is not None}
    elements = [e for e in survey.figures if e.tag == "fig" or e in owned]
    around = _Around(_ids(elements), Holders(article), survey)
    figures: list[Figure] = []
    for element in elements:
        pictures = _pictures(owned.get(element, []) or ([] if element in with_graphic else _media(element)))
        figure = _figure(element, around, len(pictures))
        figures.append(figure)
        if pictures:
            units += [_unit(figure, e, i) for i, group in enumerate(pictures) for e in group]
        elif element not in with_graphic:
            units.append(Unit(figure, None, reject=Reason.NO_GRAPHIC, detail=_media_detail(element)))
    n_figures = len(survey.by_tag["fig"])
    return Inventory(tuple(units), tuple(figures), n_figures, len(graphics), n_figures - len(with_graphic), survey)


def _symbols(owned: dict[Element, list[Element]]) -> list[_Other]:
    """Graphics inside the caption of a figure whose picture stands outside: signs among the words. They are taken out."""
    found: list[_Other] = []
    for figure, graphics in owned.items():
        pictures = [graphic for graphic in graphics if not _in_caption(graphic, figure)] if len(graphics) > 1 else graphics
        if pictures and len(pictures) < len(graphics):
            found += [(graphic, figure, Reason.NOT_IN_FIGURE) for graphic in graphics if graphic not in pictures]
            owned[figure] = pictures
    return found


def _drawn_formulas(others: list[_Other], owned: dict[Element, list[Element]]) -> set[Element]:
    """Drawings of a structure or formula that are all that a figure shows (a scheme), so that they are its picture."""
    return {
        graphic
        for graphic, owner, reject in others
        if reject is Reason.FORMULA_GRAPHIC and owner is not None and owner not in owned and not _in_caption(graphic)
    }


def _owner(graphic: Element) -> tuple[Element | None, Reason | None]:
    """The figure that a graphic belongs to, the nearest one around it, or why it is no figure's picture."""
    for above in graphic.iterancestors():
        if above.tag in _FORMULA:
            return _nearest(above, _FIGURE), Reason.FORMULA_GRAPHIC
        if above.tag in _TABLE:
            return _nearest(above, _FIGURE), Reason.TABLE_GRAPHIC
        if above.tag in _FIGURE:
            return above, None
    return None, Reason.NOT_IN_FIGURE


def _nearest(element: Element, tags: frozenset[str]) -> Element | None:
    return next(element.iterancestors(*tags), None)


def _where(graphic: Element, owner: Element | None) -> str:
    path = " < ".join(above.tag for above, _ in zip(graphic.iterancestors(), range(3), strict=False))
    return f"in {path}" + (f", figure {owner.get('id')}" if owner is not None else "")


def _media(figure: Element) -> list[Element]:
    """``<media>`` that is an image, of a figure without graphics; source data and films are not pictures."""
    return [e for e in figure.iter("media") if _nearest(e, _FIGURE) is figure and not _in_caption(e) and _is_image(e)]


def _is_image(media: Element) -> bool:
    name = href(media) or ""
    return is_raster_name(name) or (media.get("mimetype") == "image" and "." not in name)


def _in_caption(element: Element, figure: Element | None = None) -> bool:
    """Whether it stands in a caption; ``figure``: in that figure's own."""
    for above in element.iterancestors():
        if above is figure or above.tag == "caption":
            return above is not figure
    return False


def _media_detail(figure: Element) -> str | None:
    names = [href(e) or "?" for e in figure.iter("media") if _nearest(e, _FIGURE) is figure]
    return f"only media: {', '.join(names)}" if names else None


def _pictures(graphics: list[Element]) -> list[list[Element]]:
    """Graphics grouped by picture: those of one ``<alternatives>``, and versions in several languages, show the same.

    So do a graphic and the thumbnail after it, and two of one name.
    """
    if len(graphics) < 2:
        return [[graphic] for graphic in graphics]
    groups: dict[object, list[Element]] = {}
    languages = {graphic.get(XML_LANG) for graphic in graphics} - {None}
    versions = len(languages) == len(graphics)
    last: object = None
    for graphic in graphics:
        parent, name = graphic.getparent(), href(graphic)
        alternatives = versions or (parent is not None and parent.tag == "alternatives")
        key = parent if alternatives else name or graphic
        last = last if last is not None and not alternatives and _is_thumbnail(graphic) else key
        groups.setdefault(last, []).append(graphic)
    return list(groups.values())


def _is_thumbnail(graphic: Element) -> bool:
    return any("thumb" in (graphic.get(key) or "").lower() for key in ("content-type", "specific-use"))


def _unit(figure: Figure, graphic: Element, index: int) -> Unit:
    name = href(graphic)
    spoken = (graphic.get(XML_LANG) or "").lower()[:2]
    foreign = bool(spoken and figure.lang and not figure.lang.startswith(spoken))
    unit = Unit(figure, name, index, _is_thumbnail(graphic), foreign)
    if name is None:
        return replace(unit, reject=Reason.NO_HREF)
    return unit if figure.caption is not None else replace(unit, reject=Reason.NO_CAPTION)


@dataclass(frozen=True)
class _Around:
    """What reading one figure needs to know of its article."""

    ids: dict[Element, tuple[str, tuple[str, ...]]]
    holders: Holders
    survey: Survey
    captions: dict[Element, CaptionText] = field(default_factory=dict)
    """Of groups."""


def _figure(element: Element, article: _Around, n_graphics: int) -> Figure:
    fig_id, flags = article.ids[element]
    parent = _nearest(element, _FIGURE)
    caption = read_caption(element, article.holders, article.captions)
    return Figure(
        fig_id=fig_id,
        xml_id=element.get("id"),
        label=read_label(element),
        parent_id=None if parent is None else article.ids[parent][0] if parent in article.ids else parent.get("id"),
        container=container(element),
        caption=caption,
        lang=language(next(element.iterchildren("caption"), element)),
        flags=(*flags, *(caption.flags if caption else ())),
        n_graphics=n_graphics,
        nested=parent is not None and parent.tag == "fig",
        scope=next(article.survey.scopes(element)),
    )


def _ids(elements: list[Element]) -> dict[Element, tuple[str, tuple[str, ...]]]:
    """A unique id for each figure: its own, ``F1~2`` for a second F1, ``fig-auto-<n>`` for one without."""
    given = [re.sub(r"[\s/]+", "_", (e.get("id") or "").strip()) for e in elements]
    taken = set(given)
    seen: Counter[str] = Counter()
    ids: dict[Element, tuple[str, tuple[str, ...]]] = {}
    for number, (element, name) in enumerate(zip(elements, given, strict=True), 1):
        seen[name] += 1
        if name and seen[name] == 1:
            ids[element] = (name, ())
        elif name:
            ids[element] = (_free(f"{name}~", seen[name], taken), ("duplicate_fig_id",))
        else:
            ids[element] = (_free("fig-auto-", number, taken), ("generated_fig_id",))
    return ids


def _free(prefix: str, number: int, taken: set[str]) -> str:
    candidates: Iterator[str] = (f"{prefix}{n}" for n in range(number, number + len(taken) + 1))
    name = next(name for name in candidates if name not in taken)
    taken.add(name)
    return name


def container(element: Element) -> str:
    """Which part of the article holds the figure: sub-article, abstract, app, floats or body."""
    around = [*element.iterancestors()]
    tags = {above.tag for above in around}
    if tags.intersection(_PARTS):
        return "sub-article"
    if tags & {"abstract", "trans-abstract"}:
        return "abstract"
    if tags & _FLOATS or any(above.get("sec-type") == "display-objects" for above in around):
        return "floats"
    return "app" if tags & {"app", "app-group", "back"} else "body"
