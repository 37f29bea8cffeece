"""Hostile XML: fuzzed, deep, huge, lying about its encoding, reaching out of itself."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Iterator

Xml = Callable[[], bytes]

_HEAD = '<article xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:xi="http://www.w3.org/2001/XInclude">'
_META = '<front><article-meta><article-id pub-id-type="pmcid">PMC1</article-id></article-meta></front>'


def _figure(inner: str = "", href: str = "f1.jpg", fig_id: str = "F1") -> str:
    caption = f"<caption><p>A caption{inner}.</p></caption>"
    return f'<fig id="{fig_id}"><label>Figure 1</label>{caption}<graphic xlink:href="{href}"/></fig>'


def _article(body: str = "", head: str = "", meta: str = _META) -> bytes:
    return f"{head}{_HEAD}{meta}<body>{body}</body></article>".encode()


_GOOD = _article(f"<sec><title>Results</title><p>As <xref ref-type='fig' rid='F1'>Fig. 1</xref> shows.</p>{_figure()}</sec>")


def _flipped(seed: int) -> bytes:
    rng, data = random.Random(seed), bytearray(_GOOD)
    for _ in range(1 + seed % 6):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _spliced(seed: int) -> bytes:
    rng = random.Random(seed)
    a, b = sorted(rng.randrange(len(_GOOD)) for _ in range(2))
    junk = rng.choice(
        [b"", b"<", b"&", b"]]>", b"<!--", b"<![CDATA[", b"</article>", b"\0\0", b"\xff\xfe", b"<?xml?>", b"<fig>" * 50]
    )
    return _GOOD[:a] + junk + _GOOD[b:]


def _nested(tag: str, depth: int, inside: str = "") -> str:
    return f"<{tag}>" * depth + inside + f"</{tag}>" * depth


def _laughs(levels: int = 12) -> bytes:
    entities = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, levels))
    return _article(_figure(f"&l{levels - 1};"), f'<!DOCTYPE article [<!ENTITY l0 "lol">{entities}]>')


def _entity(declaration: str, use: str = "&x;") -> bytes:
    return _article(_figure(use), f"<!DOCTYPE article [{declaration}]>")


def cases() -> Iterator[tuple[str, Xml, str]]:
    """Name, how to make the XML, and what must become of it: reject, pair or any."""
    for seed in range(14):
        yield f"flipped-{seed}", lambda seed=seed: _flipped(seed), "any"
    for seed in range(12):
        yield f"spliced-{seed}", lambda seed=seed: _spliced(seed), "any"
    for part in range(1, 9):
        yield f"cut-{part}", lambda part=part: _GOOD[: len(_GOOD) * part // 9], "any"
    yield from _entities()
    yield from _bulk()
    yield from _encodings()
    yield from _no_articles()
    yield from _hrefs()


def _entities() -> Iterator[tuple[str, Xml, str]]:
    yield "billion-laughs", _laughs, "any"
    yield "quadratic-blowup", lambda: _entity(f'<!ENTITY x "{"A" * 200}">', "&x;" * 60_000), "any"
    yield "many-unknown-entities", lambda: _article(_figure("&nosuch;" * 100_000)), "any"
    yield "external-entity", lambda: _entity('<!ENTITY x SYSTEM "file:///etc/passwd">'), "any"
    yield "external-network", lambda: _entity('<!ENTITY x SYSTEM "http://127.0.0.1:9/x">'), "any"
    yield "external-device", lambda: _entity('<!ENTITY x SYSTEM "file:///dev/zero">'), "any"
    yield "parameter-entity", lambda: _entity('<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;', ""), "any"
    yield "recursive-entity", lambda: _entity('<!ENTITY x "&y;"><!ENTITY y "&x;">'), "any"
    yield "external-dtd", lambda: _article(_figure(), '<!DOCTYPE article SYSTEM "file:///dev/zero">'), "pair"
    yield "xinclude", lambda: _article(_figure('<xi:include href="file:///etc/passwd" parse="text"/>')), "pair"
    yield "attribute-entity", lambda: _article(_figure(href="&x;"), '<!DOCTYPE article [<!ENTITY x "f1.jpg">]>'), "any"


def _bulk() -> Iterator[tuple[str, Xml, str]]:
    yield "deep-sections", lambda: _article(_nested("sec", 100_000, _figure())), "any"
    yield "deep-markup", lambda: _article(_figure(_nested("bold", 5_000, "x"))), "any"
    yield "just-deep-markup", lambda: _article(_figure(_nested("italic", 200, "x"))), "any"
    yield "unclosed-depth", lambda: _article("<sec>" * 300_000), "reject"
    yield "huge-attribute", lambda: _article(_figure() + f'<p content-type="{"a" * 12_000_000}"/>'), "any"
    yield "huge-text", lambda: _article(_figure("x" * 12_000_000)), "any"
    yield "huge-comment", lambda: _article(f"<!--{'-x' * 6_000_000}-->" + _figure()), "any"
    yield "many-attributes", lambda: _article("<p " + " ".join(f'a{i}=""' for i in range(200_000)) + "/>" + _figure()), "any"
    yield "many-elements", lambda: _article("<p/>" * 3_000_000 + _figure()), "reject"
    yield "many-figures", lambda: _article('<fig id="F"><graphic xlink:href="x"/></fig>' * 60_000), "reject"
    yield "many-graphics", lambda: _article(f"<fig><caption>x</caption>{'<graphic/>' * 120_000}</fig>"), "reject"
    yield (
        "many-ids",
        lambda: _article(_figure(), meta=_META.replace("</art", '<article-id pub-id-type="x">1</article-id></art') * 5_000),
        "any",
    )
    yield "many-articles", lambda: b"<set>" + b"<article/>" * 300_000 + b"</set>", "reject"
    yield "many-citations", lambda: _article(_figure() + "<p>" + "<xref rid='F1'>1</xref>, " * 20_000 + "</p>"), "any"
    yield "one-citation-of-many", lambda: _article(_figure() + f"<p>See <xref rid='{'F1 ' * 50_000}'>1</xref>.</p>"), "any"
    yield (
        "long-range",
        lambda: _article(_figure() + "<p>Figs. <xref rid='F1'>1</xref>-<xref rid='F1'>99999999999</xref></p>"),
        "any",
    )
    figures = "".join(_figure(href="x", fig_id=f"F{i}").replace("Figure 1", f"Figure {i}") for i in range(1, 1_001))
    ranges = "<p>See Figs. <xref rid='F1'>1</xref>-<xref rid='F1000'>1000</xref>.</p>" * 1_000
    lists = f"<p>See <xref ref-type='fig' rid='{' '.join(f'F{i}' for i in range(1, 1_001))}'>all</xref>.</p>" * 500
    yield "ranges-times-figures", lambda: _article(figures.replace('"x"', '"f1.jpg"', 1) + ranges), "any"
    yield "lists-times-figures", lambda: _article(figures.replace('"x"', '"f1.jpg"', 1) + lists), "any"
    cited = "".join(f"<xref rid='F{i}'>x</xref> " for i in range(1, 1_001))
    yield "sentence-times-figures", lambda: _article(figures + f"<p>{'Word ' * 100_000}{cited}</p>"), "reject"
    members = '<fig><graphic xlink:href="f1.jpg"/></fig>' * 5_000
    group = f"<fig-group><caption><p>{'word ' * 60_000}</p></caption>{members}</fig-group>"
    yield "group-caption-times-members", lambda: _article(group), "reject"
    spans = f"<fig-group><caption><p>{'<i>w</i><bold>w</bold>' * 50_000}</p></caption>{members}</fig-group>"
    yield "markup-times-members", lambda: _article(spans), "reject"
    yield "mentions-times-figures", lambda: _article(f"{figures}<p>{'Fig. 7. ' * 50_000}</p>"), "any"
    yield "long-id", lambda: _article(_figure(fig_id="F" * 1_000_000)), "any"
    yield "open-comments", lambda: _article("&x;" + "<!--" * 100_000), "reject"
    yield "open-cdata", lambda: _article("&x;" + "<![CDATA[" * 100_000), "reject"
    yield "stray-signs", lambda: _article("& < " * 200_000 + _figure()), "any"
    yield "dots", lambda: _article(_figure("." * 200_000 + " A" * 100_000)), "any"
    yield "spaces", lambda: _article(_figure(" \u00a0\n" * 300_000)), "any"


def _encodings() -> Iterator[tuple[str, Xml, str]]:
    text = _GOOD.decode()
    for name in ("utf-16", "utf-32", "utf-7", "cp037", "iso-2022-jp", "x-nonsense", "utf-8\0", "EBCDIC-CP-US", "", "a" * 5_000):
        declared = f'<?xml version="1.0" encoding="{name}"?>'
        yield f"says-{name[:8].strip(chr(0)) or 'nothing'}", lambda d=declared: d.encode() + _GOOD, "any"
    yield "real-utf-16", lambda: text.encode("utf-16"), "pair"
    yield "real-utf-32", lambda: text.encode("utf-32"), "any"
    yield "bare-utf-16", lambda: text.encode("utf-16-le"), "any"
    yield "nuls", lambda: _GOOD.replace(b"caption.", b"cap\0tion."), "any"
    yield "only-nuls", lambda: bytes(100_000), "reject"
    yield "latin-1", lambda: _GOOD.replace(b"A caption", b"\xe9\xe8 caption"), "any"
    yield "overlong", lambda: _GOOD.replace(b"A caption", b"\xc0\xaf\xf8\x88\x80\x80\x80"), "any"
    for code in ("0", "xD800", "x110000", "99999999999999999999", "x1F", "xFFFE", ""):
        yield f"reference-{code or 'none'}", lambda code=code: _article(_figure(f"&#{code};")), "any"


def _no_articles() -> Iterator[tuple[str, Xml, str]]:
    yield "empty", lambda: b"", "reject"
    yield "blank", lambda: b" \n\t" * 1000, "reject"
    yield "byte-order-mark", lambda: b"\xef\xbb\xbf", "reject"
    yield "gzip", lambda: gzip.compress(_GOOD, mtime=0), "reject"
    yield "pdf", lambda: b"%PDF-1.7\n" + random.Random(0).randbytes(20_000), "reject"
    yield "html", lambda: b"<!DOCTYPE html><html><body><p>404<br></body></html>", "reject"
    yield "random", lambda: random.Random(1).randbytes(50_000), "reject"
    yield "svg", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "reject"
    yield "two-roots", lambda: _GOOD + _GOOD, "any"
    yield "article-in-article", lambda: _GOOD.replace(b"</body>", _GOOD + b"</body>"), "any"
    yield "odd-namespaces", lambda: b'<a:article xmlns:a="x" xmlns:="y"><a:fig/></a:article>', "reject"


def _hrefs() -> Iterator[tuple[str, Xml, str]]:
    for number, href in enumerate(
        (
            "file:///etc/passwd",
            "/etc/passwd",
            "../../../../../../etc/passwd",
            "..%2f..%2f..%2fetc%2fpasswd",
            "\\\\server\\share\\f",
            "C:\\windows\\win.ini",
            "http://127.0.0.1:9/x",
            "data:image/png;base64,AAAA",
            "%00",
            "f1.jpg%00.png",
            "x" * 1_000_000,
            "../" * 100_000 + "x",
            "%" * 1000,
            "\u202ef1.gpj",
            "~root/.ssh/id_rsa",
            "|id",
        )
    ):
        yield f"href-{number}", lambda href=href: _article(_figure(href=href)), "reject"
