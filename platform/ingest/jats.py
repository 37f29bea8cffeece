r"""Untrusted XML bytes to a clean JATS tree: no network, no DTD, no entity tricks, names without namespaces.

bytes -> HTML entities to characters -> strict parse -> local names -> the <article> elements
                                           \-> damaged: mend, recover, flag "xml_recovered"
"""

from __future__ import annotations

import contextlib
import html.entities
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from lxml import etree

from biomedray.records import Reason

Element: TypeAlias = Any  # lxml ships no types; an etree._Element

XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"

_FOREIGN_ENTITY = re.compile(rb"&(?!amp;|lt;|gt;|quot;|apos;|#)")
_ENTITY = re.compile(rb"<!\[CDATA\[.*?\]\]>|<!--.*?-->|&([A-Za-z][A-Za-z0-9.]*);", re.DOTALL)
_XML_ENTITIES = {b"amp", b"lt", b"gt", b"quot", b"apos"}
_NUMERIC = {b"amp": b"&#38;", b"lt": b"&#60;", b"gt": b"&#62;", b"quot": b"&#34;", b"apos": b"&#39;"}
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_STRAY = re.compile(rb"&(?![#A-Za-z])|<(?=[\s\d=<])")
_XMLNS = re.compile(rb"xmlns(?::[^\s=]+)?\s*=\s*[\"']([^\"']*)[\"']")
_MAX_NAMESPACES = 40
_MAX_ENTITY_CHARS = 256
_MAX_ENTITIES = 100_000


class XmlError(ValueError):
    """The bytes hold no article; ``reason`` is from the closed list."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class ArticleTree:
    """One ``<article>``; flags: xml_recovered (damaged, a tail may be lost), unresolved_entity."""

    root: Element
    flags: tuple[str, ...]


def parse_articles(xml: bytes) -> list[ArticleTree]:
    """The articles in an XML file: its root, or those inside a wrapper (OAI record, article set).

    Raises:
        XmlError: MALFORMED_XML where nothing of an article with figures can be read, else NOT_AN_ARTICLE.
    """
    root, flags = _parse(replace_html_entities(xml))
    if (flags or _maybe_entities(xml)) and not _resolve_entities(root):
        flags = (*flags, "unresolved_entity")
    _localise(root, None if flags else _namespaces(xml))
    articles = list(_articles(root))
    if not articles:
        raise XmlError(Reason.NOT_AN_ARTICLE, f"the root element is <{root.tag}>")
    if "xml_recovered" in flags and not any(next(article.iter("fig", "graphic"), None) is not None for article in articles):
        raise XmlError(Reason.MALFORMED_XML, "not well-formed, and no figure can be read from it")
    return [ArticleTree(article, flags) for article in articles]


def replace_html_entities(xml: bytes) -> bytes:
    """Named HTML entities as numeric references, since the DTD that declares them is not loaded."""
    if not _maybe_entities(xml):
        return xml
    declared = set(re.findall(rb"<!ENTITY\s+([A-Za-z][A-Za-z0-9.]*)\s", xml))

    def numeric(match: re.Match[bytes]) -> bytes:
        name = match[1]
        if name is None or name in _XML_ENTITIES or name in declared:
            return match[0]
        characters = html.entities.html5.get(f"{name.decode()};")
        return "".join(f"&#{ord(c)};" for c in characters).encode() if characters else match[0]

    return _ENTITY.sub(numeric, xml)


def _maybe_entities(xml: bytes) -> bool:
    """Whether there is a reference to any but XML's own entities; in UTF-16 a look at the bytes can't say."""
    return b"\0" in xml[:4] or _FOREIGN_ENTITY.search(xml) is not None


def href(element: Element) -> str | None:
    """The xlink:href of an element, whatever the prefix was bound to; None when absent or empty."""
    for name in (XLINK_HREF, "href", "xlink:href"):
        value = element.get(name)
        if value and value.strip():
            return str(value).strip()
    for name, value in element.attrib.items():
        if name.endswith("}href") and value.strip():
            return str(value).strip()
    return None


def _parse(xml: bytes) -> tuple[Element, tuple[str, ...]]:
    if not xml.strip():
        raise XmlError(Reason.MALFORMED_XML, "empty file")
    try:
        return etree.fromstring(xml, _parser(recover=False)), ()
    except (etree.XMLSyntaxError, ValueError) as error:
        detail = (str(error) or type(error).__name__).splitlines()[0][:200]
    root = _recover(mend(xml))
    if root is None or not any(local_name(e.tag) in ("fig", "graphic") for e in root.iter("*")):
        raise XmlError(Reason.MALFORMED_XML, detail)
    return root, ("xml_recovered",)


def mend(xml: bytes) -> bytes:
    """Damaged XML with what recovering parsers drop in silence written so that they keep it.

    After its first error libxml2 loses ``&amp;`` and ``&lt;`` (but not ``&#38;``), a stray ``&`` or ``<``,
    and every byte that is not of the declared encoding; such bytes in UTF-8 are read as Windows-1252.
    """
    declared = re.match(rb"<\?xml[^>]*encoding=[\"']([^\"']+)", xml)
    if (declared[1].lower() if declared else b"utf-8") == b"utf-8":
        text = xml.decode("utf-8", "surrogateescape")
        xml = _NOT_UTF8.sub(lambda match: bytes([ord(match[0]) - 0xDC00]).decode("cp1252", "replace"), text).encode()
    xml = _STRAY.sub(lambda match: b"&#%d;" % ord(match[0]), xml)
    return _ENTITY.sub(lambda match: _NUMERIC.get(match[1] or b"", match[0]), xml)


def _recover(xml: bytes) -> Element | None:
    for recover in (False, True):
        with contextlib.suppress(etree.XMLSyntaxError, ValueError):
            root = etree.fromstring(xml, _parser(recover))
            return root if root is not None and isinstance(root.tag, str) else None
    return None


def _parser(recover: bool) -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,  # keeps libxml2's bounds on depth, on a text's length and on entity amplification
        remove_comments=True,
        remove_pis=True,
        recover=recover,
    )


def local_name(tag: str) -> str:
    """``{namespace}name`` or an unbound ``prefix:name`` as ``name``."""
    return tag.rpartition("}")[2].rpartition(":")[2] or "unnamed"


def _namespaces(xml: bytes) -> list[str] | None:
    """The namespaces that an intact document binds; None where a look at its bytes can't say."""
    if not xml[:4].isascii() or b"\0" in xml[:4] or b"<!ATTLIST" in xml:
        return None
    found = set(_XMLNS.findall(xml)) - {b""}
    plain = len(found) <= _MAX_NAMESPACES and all(uri.isascii() and b"&" not in uri for uri in found)
    return sorted(uri.decode() for uri in found) if plain else None


def _localise(root: Element, namespaces: list[str] | None) -> None:
    """Names without namespaces. Few elements have one, and lxml finds those quickly when it is told which to look for."""
    names = ["*"] if namespaces is None else [f"{{{uri}}}*" for uri in namespaces]
    for element in list(root.iter(*names)) if names else ():
        tag = element.tag
        if "}" in tag or ":" in tag:
            element.tag = local_name(tag)


def _articles(root: Element) -> Iterator[Element]:
    if root.tag == "article":
        yield root
        return
    for element in root.iter("article"):
        if not any(above.tag == "article" for above in element.iterancestors()):
            yield element


def _resolve_entities(root: Element) -> bool:
    """Put plain internal entities' text in their place; others stay as ``&name;``. True when none stayed."""
    whole = True
    declared = _declared(root)
    for count, entity in enumerate(list(root.iter(etree.Entity))):
        text = declared.get(entity.name) if count < _MAX_ENTITIES else None
        whole = whole and text is not None
        _replace(entity, f"&{entity.name};" if text is None else text)
    return whole


def _declared(root: Element) -> dict[str, str]:
    dtd = root.getroottree().docinfo.internalDTD
    entities = dtd.iterentities() if dtd is not None else ()
    return {
        e.name: e.content
        for e in entities
        if e.content and len(e.content) <= _MAX_ENTITY_CHARS and not set(e.content) & {"&", "<"}
    }


def _replace(entity: Element, text: str) -> None:
    parent, before = entity.getparent(), entity.getprevious()
    text += entity.tail or ""
    if parent is None:
        return
    if before is None:
        parent.text = (parent.text or "") + text
    else:
        before.tail = (before.tail or "") + text
    entity.tail = None
    parent.remove(entity)
