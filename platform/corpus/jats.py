"""An article's plan as JATS XML, in the DTD version and house style that it names.

front( journal-meta, article-meta ) body( sec( p, fig ) ) back floats-group sub-article
"""

from __future__ import annotations

from collections.abc import Iterable

from lxml import etree

from biomedray.corpus.figure_xml import MML, XLINK, el, figure_element, frag, stray_element
from biomedray.corpus.grammar import plain
from biomedray.corpus.plan import Article, Figure, Section
from biomedray.corpus.topics import LICENSES

ALI = "http://www.niso.org/schemas/ali/1.0/"

# Public identifier and file of each generation of the tag set; the newest come without a DOCTYPE.
_ARCHIVING = "-//NLM//DTD JATS (Z39.96) Journal Archiving and Interchange DTD"
DTDS: dict[str, tuple[str, str] | None] = {
    "nlm2.3": ("-//NLM//DTD Journal Archiving and Interchange DTD v2.3 20070202//EN", "archivearticle.dtd"),
    "nlm3.0": ("-//NLM//DTD Journal Publishing DTD v3.0 20080202//EN", "journalpublishing3.dtd"),
    "jats1.1": (f"{_ARCHIVING} v1.1 20151215//EN", "JATS-archivearticle1.dtd"),
    "jats1.3": (f"{_ARCHIVING} v1.3 20210610//EN", "JATS-archivearticle1-3.dtd"),
    "jats1.4": None,
}


def article_xml(article: Article) -> bytes:
    """The whole XML file, in UTF-8."""
    root = _root(article)
    front = el(root, "front")
    _journal_meta(front, article)
    _article_meta(el(front, "article-meta"), article)
    body = el(root, "body")
    floating = [figure for figure in article.figures if figure.number is not None] if article.journal.floats else []
    for section in article.sections:
        _section(body, section, article, skip=bool(floating))
    _boxes(body, article)
    _strays(body, article)
    _back(root, article)
    if floating:
        _place(el(root, "floats-group"), floating, article)
    _sub_article(root, article)
    dtd = DTDS[article.dtd]
    doctype = f'<!DOCTYPE article PUBLIC "{dtd[0]}" "{dtd[1]}">' if dtd else None
    etree.cleanup_namespaces(root, keep_ns_prefixes=["xlink", "mml", "ali"])
    return etree.tostring(root, encoding="UTF-8", xml_declaration=True, doctype=doctype)  # type: ignore[no-any-return]  # lxml is untyped


def _root(article: Article) -> etree._Element:
    namespaces = {"xlink": XLINK, "mml": MML}
    if article.journal.license_ref:
        namespaces["ali"] = ALI
    root = etree.Element(
        "article",
        {"article-type": article.article_type, "dtd-version": article.dtd.removeprefix("nlm").removeprefix("jats")},
        nsmap=namespaces,
    )
    root.set("{http://www.w3.org/XML/1998/namespace}lang", "en")
    if article.dtd == "jats1.4":
        meta = el(root, "processing-meta", {"tagset-family": "jats", "base-tagset": "archiving", "mathml-version": "3.0"})
        el(meta, "restricted-by", text="pmc")
    return root


def _journal_meta(front: etree._Element, article: Article) -> None:
    meta = el(front, "journal-meta")
    el(meta, "journal-id", {"journal-id-type": "nlm-ta"}, article.journal.abbreviation)
    holder = meta if article.dtd == "nlm2.3" else el(meta, "journal-title-group")
    el(holder, "journal-title", text=article.journal.title)
    el(meta, "issn", {"pub-type": "epub"}, "0000-0000")
    el(el(meta, "publisher"), "publisher-name", text=article.journal.publisher)


def _article_ids(article: Article) -> Iterable[tuple[str, str]]:
    if article.layout == "package":
        yield "pmc", article.pmcid.removeprefix("PMC")
    else:
        yield "pmcid", article.pmcid
        yield "pmcid-ver", article.stem
        yield "pmcaid", article.pmcid.removeprefix("PMC")
    if article.pmid:
        yield "pmid", article.pmid
    yield "doi", article.doi


def _article_meta(meta: etree._Element, article: Article) -> None:
    for kind, value in _article_ids(article):
        el(meta, "article-id", {"pub-id-type": kind}, value)
    categories = el(el(meta, "article-categories"), "subj-group", {"subj-group-type": "heading"})
    el(categories, "subject", text=article.article_type.replace("-", " ").capitalize())
    el(meta, "title-group").append(frag("article-title", article.title))
    contributors = el(meta, "contrib-group")
    for surname, given in article.authors:
        name = el(el(contributors, "contrib", {"contrib-type": "author"}), "name")
        el(name, "surname", text=surname)
        el(name, "given-names", text=given)
    date = el(
        meta,
        "pub-date",
        {"pub-type": "epub"} if article.dtd.startswith("nlm") else {"date-type": "pub", "publication-format": "electronic"},
    )
    el(date, "day", text="15")
    el(date, "month", text="6")
    el(date, "year", text=str(article.year))
    _permissions(meta, article)
    el(meta, "abstract").append(frag("p", article.abstract))
    for figure in _in(article, "abstract"):
        graphical = el(meta, "abstract", {"abstract-type": "graphical"})
        el(graphical, "title", text="Graphical abstract")
        el(graphical, "p").append(figure_element(figure, article))


def _permissions(meta: etree._Element, article: Article) -> None:
    permissions = el(meta, "permissions")
    el(permissions, "copyright-statement", text=f"© {article.year} The Authors")
    el(permissions, "copyright-year", text=str(article.year))
    terms = LICENSES[article.license_code]
    if terms is None:
        el(el(permissions, "license"), "license-p", text="This article is made available for reuse under the publisher's terms.")
        return
    kind, address = terms
    if article.journal.license_ref:
        licence = el(permissions, "license")
        el(licence, f"{{{ALI}}}license_ref", {"specific-use": "textmining"}, address)
    else:
        licence = el(permissions, "license", {"license-type": kind, f"{{{XLINK}}}href": address})
    tag = "p" if article.dtd == "nlm2.3" else "license-p"
    el(licence, tag, text=f"This is an open access article under the {article.license_code} licence.")


def _section(parent: etree._Element, section: Section, article: Article, skip: bool) -> None:
    sec = el(parent, "sec")
    el(sec, "title", text=section.title)
    for paragraph in section.paragraphs:
        sec.append(frag("p", paragraph))
    if not skip:
        _place(sec, [article.figures[i] for i in section.figures], article)
    for child in section.sections:
        _section(sec, child, article, skip)


def _place(parent: etree._Element, figures: Iterable[Figure], article: Article) -> None:
    for figure in figures:
        parent.append(figure_element(figure, article))


def _in(article: Article, container: str) -> list[Figure]:
    return [figure for figure in article.figures if figure.container == container]


def _boxes(body: etree._Element, article: Article) -> None:
    for figure in _in(article, "boxed-text"):
        box = el(el(body, "sec"), "boxed-text", {"position": "float"})
        el(el(box, "caption"), "title", text="Box 1. Key points")
        el(box, "p", text="The main steps are summarized below.")
        box.append(figure_element(figure, article))


def _strays(body: etree._Element, article: Article) -> None:
    if not article.strays:
        return
    sec = el(body, "sec")
    el(sec, "title", text="Supporting material")
    for stray in article.strays:
        sec.append(stray_element(stray))


def _back(root: etree._Element, article: Article) -> None:
    back = el(root, "back")
    for figure in _in(article, "app"):
        app = el(el(back, "app-group"), "app", {"id": "app1"})
        el(app, "title", text="Appendix A")
        app.append(figure_element(figure, article))
    references = el(back, "ref-list")
    for n in range(1, 6):
        citation = el(el(references, "ref", {"id": f"B{n}"}), "mixed-citation", text=f"Author {n}. A cited work. ")
        el(citation, "source", text=article.journal.abbreviation)


def _sub_article(root: etree._Element, article: Article) -> None:
    for figure in _in(article, "sub-article"):
        sub = el(root, "sub-article", {"article-type": "reply", "id": "sa1"})
        front = el(el(sub, "front"), "article-meta")
        el(front, "article-id", {"pub-id-type": "doi"}, f"{article.doi}.sa1")
        el(el(front, "title-group"), "article-title", text="Author response")
        body = el(sub, "body")
        el(body, "p", text="We thank the reviewers and give the picture that they asked for.")
        body.append(figure_element(figure, article))


def article_text(article: Article) -> str:
    """The plain-text rendering that the cloud layout has beside the XML."""
    lines = [plain(article.title), "", plain(article.abstract), ""]

    def visit(sections: Iterable[Section]) -> None:
        for section in sections:
            lines.extend([section.title, *map(plain, section.paragraphs), ""])
            visit(section.sections)

    visit(article.sections)
    return "\n".join(lines)
