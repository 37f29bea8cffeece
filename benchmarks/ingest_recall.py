"""How many characters of the captions in the XML our captions keep, and by which named rule the others went.

Method: an oracle reads every XML with plain lxml, takes all text of each ``<caption>`` of each ``<fig>``, without white
space, and asks of every character (as a multiset) whether our ``caption`` and our ``caption_raw`` have it. It shares no
code with the extractor's walk; a character that a rule of docs/reference/pairs.md leaves out is counted under the rule's
name, by the elements around it. It also counts figures and graphics and holds them against our units of account.

Usage: python benchmarks/ingest_recall.py [FOLDER | ARCHIVE | XML]...    default: ../shared/data, else a generated corpus
"""

from __future__ import annotations

import html
import re
import sys
import tarfile
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lxml import etree

from biomedray.ingest.figures import Inventory, read_figures
from biomedray.ingest.jats import XmlError, parse_articles

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
RULES = {
    **dict.fromkeys(("object-id", "kwd-group"), "IDENTIFIER"),
    **dict.fromkeys(("permissions", "attrib"), "RIGHTS"),
    **dict.fromkeys(("alt-text", "long-desc"), "ALTERNATIVE"),
    **dict.fromkeys(("fig", "fig-group", "table-wrap"), "FLOAT"),
    **dict.fromkeys(("tex-math", "annotation", "annotation-xml"), "FORMULA"),
}
ZERO_WIDTH = re.compile("[\u200b\u200c\u200d\u2060\ufeff\u00ad]")
TARGET = 0.999


@dataclass
class Tally:
    """Characters and units of one set of articles."""

    articles: int = 0
    unreadable: int = 0
    captions: int = 0
    chars: int = 0
    kept: int = 0
    raw_kept: int = 0
    by_rule: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    unbalanced: list[str] = field(default_factory=list)


def xml_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every XML in a folder, an archive, or an archive in a folder, with its name."""
    if path.is_dir():
        for below in sorted(p for p in path.rglob("*") if p.is_file()):
            yield from xml_files(below)
    elif path.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and member.name.endswith((".xml", ".nxml")):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    yield f"{path.name}/{member.name}", stream.read()
    elif path.suffix in (".xml", ".nxml"):
        yield str(path), path.read_bytes()


def tree(xml: bytes) -> Any:
    """The XML as plain lxml reads it, named HTML entities as characters, names without namespaces."""
    known = re.sub(rb"&(?!amp;|lt;|gt;|quot;|apos;|#)[A-Za-z][A-Za-z0-9]*;", _character, xml)
    parser = etree.XMLParser(recover=True, resolve_entities=True, load_dtd=False, no_network=True, huge_tree=True)
    root = etree.fromstring(known, parser)
    for element in root.iter("*"):
        element.tag = etree.QName(element).localname
    return root


def _character(match: re.Match[bytes]) -> bytes:
    text = html.unescape(match[0].decode())
    return match[0] if text.startswith("&") else "".join(f"&#{ord(c)};" for c in text).encode()


def pieces(element: Any, rule: str | None) -> Iterator[tuple[str, str | None]]:
    """All text below an element in order, each piece with the rule that leaves it out."""
    yield element.text or "", rule
    for child in element:
        if isinstance(child.tag, str):
            yield from pieces(child, rule or RULES.get(child.tag))
        yield child.tail or "", rule


def letters(text: str) -> str:
    """Composed, without white space and zero-width characters, as every reader sees it."""
    return "".join(unicodedata.normalize("NFC", ZERO_WIDTH.sub("", text)).split())


def measure_figure(fig: Any, caption: str, raw: str, tally: Tally, name: str) -> None:
    """One figure's own captions against ours."""
    text = [piece for own in fig.iterchildren("caption") for piece in pieces(own, None)]
    whole = letters("".join(piece for piece, _ in text))
    if not whole:
        return
    tally.captions += 1
    tally.chars += len(whole)
    missing = Counter(whole) - Counter(letters(caption))
    tally.kept += len(whole) - missing.total()
    tally.raw_kept += len(whole) - (Counter(whole) - Counter(letters(raw))).total()
    for rule in sorted({rule for _, rule in text if rule}):
        named = missing & Counter(letters("".join(piece for piece, by in text if by == rule)))
        tally.by_rule[rule] += named.total()
        missing -= named
    if missing:
        tally.lost.append(f"{name} {fig.get('id')}: {''.join(sorted(missing.elements()))[:80]}")


def href(graphic: Any) -> str | None:
    """What the graphic names, under whatever prefix."""
    return next((value.strip() for name, value in graphic.attrib.items() if name.endswith("href") and value.strip()), None)


def measure_article(article: Any, inventory: Inventory, tally: Tally, name: str) -> None:
    """Captions and units of one article."""
    figs, graphics = list(article.iter("fig")), list(article.iter("graphic"))
    bare = [fig for fig in figs if next(fig.iter("graphic"), None) is None]
    expected = Counter(href(graphic) for graphic in graphics)
    found = Counter(unit.href for unit in inventory.units)
    if len(inventory.units) < len(graphics) + len(bare) or expected - found:
        tally.unbalanced.append(f"{name}: {len(figs)} figures, {len(graphics)} graphics, {len(inventory.units)} units")
    ours = {id_: iter([f for f in inventory.figures if f.xml_id == id_]) for id_ in {f.xml_id for f in inventory.figures}}
    for fig in figs:
        figure = next(ours.get(fig.get("id"), iter(())), None)
        own = figure.caption if figure is not None else None
        measure_figure(fig, own.text if own else "", own.raw if own else "", tally, name)


def measure(path: Path) -> Tally:
    """All articles of a source."""
    tally = Tally()
    for name, xml in xml_files(path):
        try:
            ours = parse_articles(xml)
        except XmlError:
            tally.unreadable += 1
            continue
        root = tree(xml)
        tops = [root] if root.tag == "article" else [e for e in root.iter("article") if not [*e.iterancestors("article")]]
        for article, mine in zip(tops, ours, strict=True):
            tally.articles += 1
            measure_article(article, read_figures(mine.root), tally, name)
    return tally


def report(path: Path, tally: Tally) -> bool:
    """Print one set's numbers; whether they reach the target."""
    ruled = tally.by_rule.total()
    strict, recall = tally.kept / max(1, tally.chars), tally.kept / max(1, tally.chars - ruled)
    print(f"{path.name}: {tally.articles} articles, {tally.captions} captions, {tally.chars} characters", end="")
    print(f", {tally.unreadable} files hold no article" if tally.unreadable else "")
    print(f"  kept by caption      {100 * strict:.3f} % of all; {100 * recall:.4f} % but for the named rules")
    print(f"  kept by caption_raw  {100 * tally.raw_kept / max(1, tally.chars):.4f} %")
    for rule, count in tally.by_rule.most_common():
        print(f"  left out by {rule:<12} {count:6d} ({100 * count / tally.chars:.3f} %)")
    for line in (*tally.lost[:20], *tally.unbalanced[:20]):
        print(f"  ! {line}")
    print(f"  figures accounted for: {'all' if not tally.unbalanced else f'NOT in {len(tally.unbalanced)} articles'}")
    return recall >= TARGET and not tally.unbalanced


def generated(folder: Path) -> list[Path]:
    """A corpus of our own, where no real articles are at hand."""
    from biomedray.corpus import generate

    generate(folder / "corpus", articles=64, progress=False)
    return [folder / "corpus"]


def main() -> None:
    """Measure the sources given; exit 1 where one is below the target."""
    with tempfile.TemporaryDirectory() as scratch:
        real = [DATA / "packages", DATA / "xml" / "articles.tar.xz"]
        sources = [Path(arg) for arg in sys.argv[1:]] or ([*real] if DATA.is_dir() else generated(Path(scratch)))
        good = [report(path, measure(path)) for path in sources]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
