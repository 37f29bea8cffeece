"""JATS elements of figures in the constructions that journals use, and of graphics that are no figures."""

from __future__ import annotations

from collections.abc import Mapping

from lxml import etree

from biomedray.corpus.plan import Article, Caption, Figure, Graphic, Stray

MML = "http://www.w3.org/1998/Math/MathML"
XLINK = "http://www.w3.org/1999/xlink"
_HREF = f"{{{XLINK}}}href"


def el(
    parent: etree._Element | None, tag: str, attributes: Mapping[str, str] | None = None, text: str | None = None
) -> etree._Element:
    """A new element, the last child of ``parent`` if that is given."""
    node = etree.Element(tag, dict(attributes or {})) if parent is None else etree.SubElement(parent, tag, dict(attributes or {}))
    node.text = text
    return node


def frag(tag: str, fragment: str) -> etree._Element:
    """An element around an XML fragment that this package wrote."""
    namespace = f' xmlns:mml="{MML}"' if "<mml:" in fragment else ""
    return etree.fromstring(f"<{tag}{namespace}>{fragment}</{tag}>")  # our own text, no entities


def figure_element(figure: Figure, article: Article) -> etree._Element:
    """``<fig>`` or ``<fig-group>`` of the plan, in its construction."""
    if figure.construct == "group":
        return _group(figure, article)
    fig = el(None, "fig", {"id": figure.fig_id})
    if figure.number is not None and not article.journal.floats:
        fig.set("position", "float")
    if figure.role == "supplement":
        fig.set("specific-use", "child-fig")
    _label(fig, figure)
    if figure.role != "member":
        _caption(fig, figure, article)
    _graphics(fig, figure)
    if figure.rights:
        permissions = el(fig, "permissions")
        el(permissions, "copyright-statement", text=figure.rights)
    for child in figure.children:
        fig.append(figure_element(child, article))
    return fig


def _group(figure: Figure, article: Article) -> etree._Element:
    group = el(None, "fig-group", {"id": figure.fig_id, "position": "float"})
    _label(group, figure)
    _caption(group, figure, article)
    for member in figure.children:
        group.append(figure_element(member, article))
    return group


def _label(fig: etree._Element, figure: Figure) -> None:
    if figure.label:
        el(fig, "label", text=figure.label)


def _caption(fig: etree._Element, figure: Figure, article: Article) -> None:
    caption = el(fig, "caption")
    _caption_text(caption, figure.caption)
    if figure.construct == "source_data":
        _source_data(caption, figure, article)


def _caption_text(parent: etree._Element, caption: Caption) -> None:
    if caption.title is not None:
        parent.append(frag("title", caption.title))
    for paragraph in caption.paragraphs:
        parent.append(frag("p", paragraph))


def _source_data(caption: etree._Element, figure: Figure, article: Article) -> None:
    """A spreadsheet with its own label and title inside the caption, before the picture."""
    label, title = source_data_words(figure)
    holder = el(el(caption, "p"), "supplementary-material", {"id": f"{figure.fig_id}-SD1"})
    el(holder, "label", text=label)
    el(el(holder, "caption"), "title", text=title)
    name = source_data_name(figure, article)
    el(holder, "media", {"mimetype": "application", "mime-subtype": "xlsx", _HREF: name})


def source_data_words(figure: Figure) -> tuple[str, str]:
    """Label and title of a figure's source data, the last words of its caption."""
    return f"{figure.label or 'Figure'}—source data 1.", "Source data of the figure."


def source_data_name(figure: Figure, article: Article) -> str:
    """File name of a figure's source data."""
    return f"{article.journal.abbreviation.lower().replace(' ', '-')}-{figure.number}-data1.xlsx"


def _graphics(fig: etree._Element, figure: Figure) -> None:
    holder = fig
    if figure.construct == "in_paragraph":
        holder = el(fig, "p")
    elif figure.construct == "alternatives":
        holder = el(fig, "alternatives")
    for graphic in figure.graphics:
        _graphic(holder, graphic, figure)


def _graphic(parent: etree._Element, graphic: Graphic, figure: Figure) -> None:
    """The attributes come in the order that publishers use, the href not always first."""
    node = el(parent, "graphic")
    if figure.construct == "alternatives":
        node.set("specific-use", "online" if graphic.chosen else "print")
    elif figure.number is not None and figure.number % 2 == 0:
        node.set("id", f"{figure.fig_id}-graphic{figure.graphics.index(graphic)}")
        node.set("mimetype", "image")
    node.set(_HREF, graphic.href)
    if figure.number is not None and figure.number % 3 == 0:
        el(node, "alt-text", text=f"Image of {figure.label or 'the figure'}")


def stray_element(stray: Stray) -> etree._Element:
    """A table, a formula or a paragraph whose content is a picture."""
    if stray.container == "table-wrap":
        table = el(None, "table-wrap", {"id": "T1"})
        el(table, "label", text="Table 1")
        el(el(table, "caption"), "p", text="Characteristics of the patients.")
        el(table, "graphic", {_HREF: stray.href})
        return table
    if stray.container == "disp-formula":
        paragraph = el(None, "p", text="The rate follows")
        el(el(paragraph, "disp-formula", {"id": "E1"}), "graphic", {_HREF: stray.href})
        return paragraph
    paragraph = el(None, "p", text="The emblem of the study group: ")
    el(paragraph, "graphic", {_HREF: stray.href})
    return paragraph
