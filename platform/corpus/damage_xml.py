"""Damage to the XML: the file as a whole, and single figures in it."""

from __future__ import annotations

import re

from lxml import etree

from biomedray.corpus.damage import Catalogue
from biomedray.corpus.figure_xml import XLINK
from biomedray.corpus.layouts import Bundle
from biomedray.corpus.truth import Expected, rejected
from biomedray.records import Reason, Stage

damage = Catalogue()


def _xml(found: Bundle) -> bytes:
    assert found.xml is not None
    return found.xml


@damage.on()
def _xml_missing(found: Bundle) -> Expected:
    found.xml = None
    return rejected(Stage.SOURCE, Reason.NO_ARTICLE_XML)


@damage.on()
def _xml_truncated(found: Bundle) -> Expected:
    found.xml = _xml(found)[: len(_xml(found)) // 2]
    return rejected(Stage.ARTICLE, Reason.MALFORMED_XML)


@damage.on()
def _xml_not_well_formed(found: Bundle) -> Expected:
    found.xml = _xml(found).replace(b"</sec>", b"</sek>", 1)
    return rejected(Stage.ARTICLE, Reason.MALFORMED_XML)


@damage.on()
def _xml_foreign(found: Bundle) -> Expected:
    found.xml = (
        b'<?xml version="1.0"?>\n<TEI xmlns="http://www.tei-c.org/ns/1.0"><text><body><p>Not JATS.</p></body></text></TEI>\n'
    )
    return rejected(Stage.ARTICLE, Reason.NOT_AN_ARTICLE)


@damage.on()
def _xml_empty(found: Bundle) -> Expected:
    found.xml = b""
    return rejected(Stage.ARTICLE, Reason.MALFORMED_XML)


def _with_entities(xml: bytes, subset: bytes, into: bytes) -> bytes:
    """The XML with an internal DTD subset, and ``into`` in a paragraph at the head of the body."""
    bare = re.sub(rb"<!DOCTYPE[^>]*>\n?", b"", xml)
    head, rest = bare.split(b"?>", 1)
    return head + b"?>\n<!DOCTYPE article [" + subset + b"]>" + rest.replace(b"<body>", b"<body><p>" + into + b"</p>", 1)


@damage.on()
def _xml_entity_bomb(found: Bundle) -> Expected:
    laughs = b'<!ENTITY lol0 "lol">' + b"".join(b'<!ENTITY lol%d "%s">' % (i, b"&lol%d;" % (i - 1) * 10) for i in range(1, 10))
    found.xml = _with_entities(_xml(found), laughs, b"&lol9;")
    return rejected(Stage.ARTICLE, Reason.MALFORMED_XML, Reason.XML_TOO_LARGE, may_survive=True)


@damage.on()
def _xml_external_entity(found: Bundle) -> Expected:
    found.xml = _with_entities(_xml(found), b'<!ENTITY leak SYSTEM "file:///etc/hostname">', b"&leak;")
    return rejected(Stage.ARTICLE, Reason.MALFORMED_XML, may_survive=True)


@damage.on()
def _xml_wrong_encoding(found: Bundle) -> Expected:
    found.xml = _xml(found).replace(b"<body>", b"<body><p>Caf\xe9 na\xefve</p>", 1)
    return rejected(Stage.ARTICLE, Reason.MALFORMED_XML, may_survive=True)


def _recode(found: Bundle, encoding: str) -> Expected:
    text = _xml(found).decode().replace("encoding='UTF-8'", f"encoding='{encoding}'", 1)
    found.xml = text.encode(encoding, "xmlcharrefreplace")
    return Expected("article")


@damage.on()
def _xml_latin1(found: Bundle) -> Expected:
    return _recode(found, "ISO-8859-1")


@damage.on()
def _xml_utf16(found: Bundle) -> Expected:
    return _recode(found, "UTF-16")


@damage.on()
def _no_figures(found: Bundle) -> Expected:
    root = _root(found)
    for fig in list(root.iter("fig")):
        fig.getparent().remove(fig)
    _store(found, root)
    return rejected(Stage.ARTICLE, Reason.NO_FIGURES)


# One figure of the XML.


def _root(found: Bundle) -> etree._Element:
    return etree.fromstring(_xml(found))  # written by this package a moment ago


def _store(found: Bundle, root: etree._Element) -> None:
    tree = root.getroottree()
    found.xml = etree.tostring(tree, encoding="UTF-8", xml_declaration=True, doctype=tree.docinfo.doctype or None)


@damage.on()
def _fig_without_caption(found: Bundle) -> Expected:
    root = _root(found)
    fig = next(root.iter("fig"))
    fig.remove(fig.find("caption"))
    _store(found, root)
    return Expected(
        "figure", Stage.FIGURE, Reason.NO_CAPTION, figure={"caption": "", "subcaptions": [], "has_caption_title": False}
    )


@damage.on()
def _fig_empty_caption(found: Bundle) -> Expected:
    root = _root(found)
    caption = next(root.iter("fig")).find("caption")
    for child in list(caption):
        caption.remove(child)
    etree.SubElement(caption, "p").text = " "
    _store(found, root)
    return Expected(
        "figure", Stage.FIGURE, Reason.NO_CAPTION, figure={"caption": "", "subcaptions": [], "has_caption_title": False}
    )


@damage.on()
def _fig_without_graphic(found: Bundle) -> Expected:
    root = _root(found)
    fig = next(root.iter("fig"))
    fig.remove(fig.find("graphic"))
    _store(found, root)
    return Expected("figure", Stage.FIGURE, Reason.NO_GRAPHIC, graphic={"href": None, "file": None})


@damage.on()
def _fig_without_href(found: Bundle) -> Expected:
    root = _root(found)
    del next(root.iter("graphic")).attrib[f"{{{XLINK}}}href"]
    _store(found, root)
    return Expected("figure", Stage.FIGURE, Reason.NO_HREF, graphic={"href": None})


@damage.on()
def _fig_without_id(found: Bundle) -> Expected:
    root = _root(found)
    del next(root.iter("fig")).attrib["id"]
    _store(found, root)
    return Expected("figure", figure={"fig_id": None, "mentions": []})


@damage.on()
def _fig_duplicate_id(found: Bundle) -> Expected:
    root = _root(found)
    figures = list(root.iter("fig"))
    figures[0].set("id", figures[1].get("id"))
    _store(found, root)
    return Expected("figure", figure={"fig_id": figures[1].get("id"), "mentions": []})
