r"""Untrusted XML bytes to a clean JATS tree: no network, no DTD, no entity tricks, names without namespaces.

bytes -> HTML entities to characters -> strict parse -> one walk: local names, figures, references -> the <article> elements
                                           \-> damaged: mend, recover, flag "xml_recovered"
"""

from __future__ import annotations

import contextlib
import html.entities
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeAlias

from lxml import etree

from biomedray.records import Reason

Element: TypeAlias = Any  # lxml ships no types; an etree._Element
ByTag: TypeAlias = dict[str, list[Element]]

SURVEYED: Final = ("fig", "fig-group", "graphic", "xref", "sub-article", "response")
"""What figures and what cites them are found by; a walk over a tree takes longer than what is done with these."""
XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"

_FOREIGN_ENTITY = re.compile(rb"&(?!amp;|lt;|gt;|quot;|apos;|#)")
_VERBATIM = rb"<!\[CDATA\[.*?(?:\]\]>|\Z)|<!--.*?(?:-->|\Z)"
_ENTITY = re.compile(_VERBATIM + rb"|&([A-Za-z][A-Za-z0-9.]*);", re.DOTALL)
_XML_ENTITIES = {b"amp", b"lt", b"gt", b"quot", b"apos"}
_NUMERIC = {b"amp": b"&#38;", b"lt": b"&#60;", b"gt": b"&#62;", b"quot": b"&#34;", b"apos": b"&#39;"}
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_REFERENCE = re.compile(_VERBATIM + rb"|&#(?:[xX]([0-9A-Fa-f]+)|([0-9]+));", re.DOTALL)
_STRAY = re.compile(_VERBATIM + rb"|&(?![#A-Za-z])|<(?=[\s\d=<])", re.DOTALL)
_XMLNS = re.compile(rb"xmlns(?::[^\s=]+)?\s*=\s*[\"']([^\"']*)[\"']")
_MAX_NAMESPACES = 40
_MAX_ENTITY_CHARS = 256
_MAX_ENTITIES = 100_000
# A parsed element takes some 200 bytes, so that the size of a file says little; the largest articles have half a million.
_MAX_TAGS = 2_000_000
_MAX_UNITS = 20_000
_MAX_ARTICLES = 10_000
# Characters of all pairs' captions and citances: a group's caption or a sentence that cites many figures is said for each.
# Of 641 real articles the largest has 122,000.
_MAX_TEXT = 32 * 2**20
# The least that a tag or attribute takes: smaller files need not be counted.
_TAG_BYTES = 3


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
    found: ByTag | None = None
    """Its SURVEYED elements in document order, where the article is all of the file."""


def parse_articles(xml: bytes) -> list[ArticleTree]:
    """The articles in an XML file: its root, or those inside a wrapper (OAI record, article set).

    Raises:
        XmlError: MALFORMED_XML where nothing of an article with figures can be read, XML_TOO_LARGE where it has
            more tags, figures or articles than any real file, else NOT_AN_ARTICLE.
    """
    if len(xml) > _MAX_TAGS * _TAG_BYTES:
        _bound("tags and attributes", xml.count(b"<") + xml.count(b'="') + xml.count(b"='"), _MAX_TAGS)
    entities = _maybe_entities(xml)
    root, flags = _parse(_numeric_entities(xml) if entities else xml)
    if (flags or entities) and not _resolve_entities(root):
        flags = (*flags, "unresolved_entity")
    found = _walk(root, None if flags else _namespaces(xml, root))
    articles = list(_articles(root))
    _bound("articles", len(articles), _MAX_ARTICLES)
    if not articles:
        raise XmlError(Reason.NOT_AN_ARTICLE, f"the root element is <{root.tag}>")
    if "xml_recovered" in flags and not any(next(article.iter("fig", "graphic"), None) is not None for article in articles):
        raise XmlError(Reason.MALFORMED_XML, "not well-formed, and no figure can be read from it")
    return [ArticleTree(article, flags, found if article is root else None) for article in articles]


def _bound(what: str, number: int, most: int) -> None:
    if number > most:
        raise XmlError(Reason.XML_TOO_LARGE, f"more than {most} {what}")


def bound_text(size: int) -> None:
    """Stop where the captions and citances of an article's pairs grow beyond all measure.

    Raises:
        XmlError: they do.
    """
    _bound("characters of captions and citances", size, _MAX_TEXT)


def replace_html_entities(xml: bytes) -> bytes:
    """Named HTML entities as numeric references, since the DTD that declares them is not loaded."""
    return _numeric_entities(xml) if _maybe_entities(xml) else xml


def _numeric_entities(xml: bytes) -> bytes:
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
    xml = _REFERENCE.sub(lambda match: match[0] if _is_character(match) else b"&#65533;", xml)
    xml = _STRAY.sub(lambda match: b"&#%d;" % ord(match[0]) if len(match[0]) == 1 else match[0], xml)
    return _ENTITY.sub(lambda match: _NUMERIC.get(match[1] or b"", match[0]), xml)


def _is_character(reference: re.Match[bytes]) -> bool:
    """Whether XML 1.0 has the character; recovering libxml2 lets half a surrogate pass, and lxml then can't read the text."""
    if reference[1] is reference[2]:
        return True  # what stands in CDATA and comments is no reference
    digits, base = (reference[1], 16) if reference[1] else (reference[2], 10)
    code = int(digits, base) if len(digits.lstrip(b"0")) <= 8 else -1
    return code in (9, 10, 13) or 0x20 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or 0x10000 <= code < 0x110000


def _recover(xml: bytes) -> Element | None:
    for recover in (False, True):
        with contextlib.suppress(etree.XMLSyntaxError, ValueError):
            root = etree.fromstring(xml, _parser(recover))
            return root if root is not None and isinstance(root.tag, str) else None
    return None


@cache
def _parser(recover: bool) -> etree.XMLParser:
    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,  # with collect_ids=False lxml would look for it all the same
        dtd_validation=False,
        huge_tree=False,  # keeps libxml2's bounds on depth, on a text's length and on entity amplification
        remove_comments=True,
        remove_pis=True,
        recover=recover,
    )


def local_name(tag: str) -> str:
    """``{namespace}name`` or an unbound ``prefix:name`` as ``name``."""
    return tag.rpartition("}")[2].rpartition(":")[2] or "unnamed"


def _namespaces(xml: bytes, root: Element) -> list[str] | None:
    """The namespaces that an intact document binds; None where a look at its bytes can't say."""
    dtd = root.getroottree().docinfo.internalDTD
    defaults = dtd is not None and next(dtd.iterelements(), None) is not None  # a DTD may bind one by an attribute's default
    if defaults or not xml[:4].isascii() or b"\0" in xml[:4]:
        return None
    found: set[bytes] = set()
    at = xml.find(b"xmlns")  # quicker than a search by the pattern
    while at >= 0:
        if match := _XMLNS.match(xml, at):
            found.add(match[1])
        at = xml.find(b"xmlns", at + 5)
    found.discard(b"")
    plain = len(found) <= _MAX_NAMESPACES and all(uri.isascii() and b"&" not in uri for uri in found)
    return sorted(uri.decode() for uri in found) if plain else None


def _walk(root: Element, namespaces: list[str] | None) -> ByTag:
    """Names without namespaces, and the SURVEYED elements. Few have a namespace; lxml finds those when told which to look for."""
    names = ["*"] if namespaces is None else [*SURVEYED, *(f"{{{uri}}}*" for uri in namespaces)]
    found: ByTag = {tag: [] for tag in SURVEYED}
    units = 0
    for element in root.iter(*names):
        tag = element.tag
        if "}" in tag or ":" in tag:
            element.tag = tag = local_name(tag)
        if tag in found:
            found[tag].append(element)
            if tag in ("fig", "graphic"):
                units += 1
                _bound("figures and graphics", units, _MAX_UNITS)
    return found


def elements_by_tag(article: Element) -> ByTag:
    """The SURVEYED elements of an article."""
    found: ByTag = {tag: [] for tag in SURVEYED}
    for element in article.iter(*SURVEYED):
        found[element.tag].append(element)
    return found


def _articles(root: Element) -> Iterator[Element]:
    if root.tag == "article":
        yield root
        return
    for element in root.iter("article"):
        if not any(above.tag == "article" for above in element.iterancestors()):
            yield element


def _resolve_entities(root: Element) -> bool:
    """Put plain internal entities' text in their place; others stay as ``&name;``. True when none stayed."""
    declared = _declared(root)
    entities = list(root.iter(etree.Entity))
    texts = {entity.name: declared.get(entity.name) for entity in entities} if len(entities) <= _MAX_ENTITIES else {}
    for parent in dict.fromkeys(entity.getparent() for entity in entities):
        if parent is not None:
            _inline(parent, texts)
    return bool(texts or not entities) and None not in texts.values()


def _declared(root: Element) -> dict[str, str]:
    dtd = root.getroottree().docinfo.internalDTD
    entities = dtd.iterentities() if dtd is not None else ()
    return {
        e.name: e.content
        for e in entities
        if e.content and len(e.content) <= _MAX_ENTITY_CHARS and not set(e.content) & {"&", "<"}
    }


def _inline(parent: Element, texts: dict[str, str | None]) -> None:
    """Entities among the children as text, in time linear in their number: thousands may stand in one paragraph."""
    kept: Element | None = None
    pieces = [parent.text or ""]
    for child in list(parent):
        if child.tag is not etree.Entity:
            _put(parent, kept, pieces)
            kept, pieces = child, [child.tail or ""]
            continue
        text = texts.get(child.name)
        pieces += [f"&{child.name};" if text is None else text, child.tail or ""]
        child.tail = None
        parent.remove(child)
    _put(parent, kept, pieces)


def _put(parent: Element, before: Element | None, pieces: list[str]) -> None:
    if len(pieces) == 1:
        return
    if before is None:
        parent.text = "".join(pieces)
    else:
        before.tail = "".join(pieces)
