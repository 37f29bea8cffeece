"""Figures of an article: which kinds, single or compound, how the panels are laid out, how the XML is built."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from biomedray.corpus import captions
from biomedray.corpus.draw.canvas import Rng, Size
from biomedray.corpus.grammar import chance, expand, pick
from biomedray.corpus.kinds import Kind, all_kinds
from biomedray.corpus.plan import Box, Caption, Figure, Graphic, Panel
from biomedray.corpus.topics import COMMON_KINDS, Journal, Topic, vocabulary

COMPOUND_SHARE = 0.32
_CONSTRUCTS = ("plain", "in_paragraph", "alternatives", "several", "group", "nested", "source_data")
_CONSTRUCT_WEIGHTS = (0.66, 0.07, 0.07, 0.05, 0.04, 0.05, 0.06)
_ROWS: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((2,), (1, 1)),
    3: ((3,), (2, 1), (1, 2)),
    4: ((2, 2), (4,), (2, 2)),
    5: ((3, 2), (2, 3)),
    6: ((3, 3), (2, 2, 2)),
}
_FLAT = {"chart", "scheme", "laboratory"}  # few colours: small as PNG or GIF


@dataclass(frozen=True)
class Desk:
    """What all figures of an article share."""

    rng: Rng
    seed: tuple[int, ...]
    serial: int
    layout: str
    topic: Topic
    journal: Journal
    context: Mapping[str, str]
    prose: captions.Prose

    @property
    def voice(self) -> captions.Voice:
        """What its captions share."""
        return captions.Voice(self.rng, self.context, self.journal, self.prose)


def choose_kinds(rng: Rng, topic: Topic, count: int) -> list[str]:
    """Kinds for the figures of an article: some of its topic, some common ones, seldom the same twice."""
    chosen: list[str] = []
    while len(chosen) < count:
        pool = topic.kinds if chance(rng, 0.45) else COMMON_KINDS
        kind = pool[int(rng.integers(len(pool)))]
        if kind not in chosen or chance(rng, 0.2):
            chosen.append(kind)
    return chosen


def plan_figure(desk: Desk, kind_name: str, n: int) -> Figure:
    """Main figure number ``n``."""
    rng, kind = desk.rng, all_kinds()[kind_name]
    draw = int(rng.choice(len(_CONSTRUCTS), p=_CONSTRUCT_WEIGHTS))
    construct = _CONSTRUCTS[draw]
    fig_id = desk.journal.fig_id.format(n=n, i=desk.serial)
    label = desk.journal.label.format(n=n) or None
    if construct == "group":
        return _group(desk, kind, n, fig_id, label)
    if construct == "several":
        return _several(desk, kind, n, fig_id, label)
    graphics, caption = _pictured(desk, kind, str(n), (n,))
    rights = expand(rng, vocabulary()["rights"], desk.context) if chance(rng, 0.06) else None
    if construct == "alternatives":
        graphics = (_print_version(desk, graphics[0]), _with_extension(graphics[0]))
    children = (_supplement(desk, n, fig_id, label),) if construct == "nested" else ()
    return Figure(fig_id, label, caption, graphics, construct, number=n, rights=rights, children=children)


def extra_figure(desk: Desk, kind_name: str, container: str, code: str, label: str | None) -> Figure:
    """A figure outside the numbered ones: in a box, an appendix, a sub-article or a graphical abstract."""
    graphics, caption = _pictured(desk, all_kinds()[kind_name], code, (100 + sum(map(ord, code)),))
    fig_id = f"{desk.journal.fig_id.format(n=0, i=desk.serial)}-{code}"
    return Figure(fig_id, label, caption, graphics, container=container)


def _pictured(desk: Desk, kind: Kind, code: str, draw: tuple[int, ...]) -> tuple[tuple[Graphic, ...], Caption]:
    """One graphic, single or compound, and its caption."""
    rng = desk.rng
    if chance(rng, COMPOUND_SHARE):
        size, boxes, outside = _layout(rng, int(rng.choice((2, 3, 4, 5, 6), p=(0.34, 0.22, 0.26, 0.08, 0.1))))
        panels = _panels(desk, kind, boxes)
        style = ("{p}", "({p})", "{p}", "{p})")[int(rng.integers(4))]
        caption = captions.compound(desk.voice, panels)
        return (_graphic(desk, code, size, panels, draw, style, outside),), caption
    attributes = kind.sample(rng, _fixed(desk, chance(rng, 0.85)))
    size = single_size(rng, kind)
    panel = Panel(None, kind.name, attributes, (0, 0, *size))
    caption = captions.single(desk.voice, kind, attributes)
    return (_graphic(desk, code, size, (panel,), draw),), caption


def single_size(rng: Rng, kind: Kind) -> Size:
    """Width and height of a picture: 256 to 420 pixels on the long side, in a shape that suits the kind."""
    aspect = kind.aspects[int(rng.integers(len(kind.aspects)))] * rng.uniform(0.94, 1.06)
    long_side = int(rng.integers(256, 421))
    return (long_side, round(long_side / aspect)) if aspect >= 1 else (round(long_side * aspect), long_side)


def _fixed(desk: Desk, keep: bool) -> dict[str, Any]:
    return dict(desk.topic.fixed) if keep else {}


def _layout(rng: Rng, n: int) -> tuple[Size, list[Box], bool]:
    """Rows of panels on a white page: its size, the boxes, and whether letters stand above the panels."""
    choices = _ROWS[n]
    rows = choices[int(rng.integers(len(choices)))]
    width = int(rng.integers(340, 471))
    gap, outside = int(rng.integers(4, 12)), chance(rng, 0.3)
    head = 20 if outside else 0
    aspect = rng.uniform(0.95, 1.35)
    boxes, y = [], gap
    for count in rows:
        panel_width = (width - gap * (count + 1)) // count
        height = round(min(panel_width / aspect, 210))
        for column in range(count):
            x = gap + column * (panel_width + gap)
            boxes.append((x, y + head, x + panel_width, y + head + height))
        y += head + height + gap
    return (width, y), boxes, outside


def _panels(desk: Desk, kind: Kind, boxes: list[Box]) -> tuple[Panel, ...]:
    """Lettered panels: of one kind in half of the figures, else mixed; a neighbour is at times a replicate."""
    rng = desk.rng
    letters = string.ascii_uppercase if desk.journal.upper else string.ascii_lowercase
    mixed = chance(rng, 0.5)
    fixed = _fixed(desk, True)
    panels: list[Panel] = []
    for letter, box in zip(letters, boxes, strict=False):
        if panels and chance(rng, 0.12):
            panels.append(Panel(letter, panels[-1].kind, panels[-1].attributes, box))
            continue
        other = all_kinds()[choose_kinds(rng, desk.topic, 1)[0]] if mixed and panels else kind
        panels.append(Panel(letter, other.name, other.sample(rng, fixed), box))
    return tuple(panels)


def _graphic(
    desk: Desk, code: str, size: Size, panels: tuple[Panel, ...], draw: tuple[int, ...], style: str = "{p}", outside: bool = False
) -> Graphic:
    stem = desk.journal.href.format(i=desk.serial, n=code)
    seed = (*desk.seed, *draw)
    if desk.layout == "package":
        return Graphic(stem, f"{stem}.jpg", size, panels, seed, style, outside)
    name = f"{stem}.{_extension(desk.rng, panels)}"
    bare = chance(desk.rng, 0.05)
    return Graphic(stem if bare else name, name, size, panels, seed, style, outside)


def _extension(rng: Rng, panels: tuple[Panel, ...]) -> str:
    """Cloud folders hold files under their publishers' names; photographs are seldom lossless."""
    flat = all(all_kinds()[panel.kind].family in _FLAT for panel in panels)
    weights = (0.55, 0.25, 0.08, 0.06, 0.06) if flat else (0.92, 0.0, 0.08, 0.0, 0.0)
    return str(rng.choice(("jpg", "png", "webp", "gif", "tif"), p=weights))


def _with_extension(graphic: Graphic) -> Graphic:
    assert graphic.file is not None
    return Graphic(
        graphic.file, graphic.file, graphic.size, graphic.panels, graphic.seed, graphic.label_style, graphic.label_outside
    )


def _print_version(desk: Desk, graphic: Graphic) -> Graphic:
    """The same picture for print; its TIFF is often not deposited."""
    assert graphic.file is not None
    name = graphic.file.rpartition(".")[0] + "-hr.tif"
    file = name if chance(desk.rng, 0.4) else None
    return Graphic(
        name, file, graphic.size, graphic.panels, graphic.seed, graphic.label_style, graphic.label_outside, chosen=False
    )


def _several(desk: Desk, kind: Kind, n: int, fig_id: str, label: str | None) -> Figure:
    """Two graphics under one caption, each a lettered picture of its own."""
    rng = desk.rng
    letters = "AB" if desk.journal.upper else "ab"
    panels = [
        Panel(letter, kind.name, kind.sample(rng, _fixed(desk, True)), (0, 0, *single_size(rng, kind))) for letter in letters
    ]
    caption = captions.compound(desk.voice, panels)
    graphics = tuple(_graphic(desk, f"{n}{panel.label}", panel.box[2:], (panel,), (n, i)) for i, panel in enumerate(panels))
    return Figure(fig_id, label, caption, graphics, "several", number=n)


def _group(desk: Desk, kind: Kind, n: int, fig_id: str, label: str | None) -> Figure:
    """A fig-group with the caption; its two members have a picture and a label, but no caption."""
    rng = desk.rng
    attributes = kind.sample(rng, _fixed(desk, True))
    caption = captions.shared(desk.voice, kind, attributes)
    members = []
    for i, letter in enumerate("ab"):
        size = single_size(rng, kind)
        graphic = _graphic(desk, f"{n}{letter}", size, (Panel(None, kind.name, attributes, (0, 0, *size)),), (n, i))
        members.append(
            Figure(
                f"{fig_id}{letter}",
                f"{label} ({letter})" if label else None,
                caption,
                (graphic,),
                number=n,
                parent_id=f"{fig_id}g",
                role="member",
            )
        )
    return Figure(f"{fig_id}g", label, caption, (), "group", number=n, children=tuple(members))


def _supplement(desk: Desk, n: int, fig_id: str, label: str | None) -> Figure:
    """A figure supplement inside its figure, as eLife has them."""
    kind = all_kinds()[choose_kinds(desk.rng, desk.topic, 1)[0]]
    graphics, caption = _pictured(desk, kind, f"{n}s1", (n, 9))
    name = f"{label.rstrip('.')}—figure supplement 1." if label else None
    return Figure(f"{fig_id}s1", name, caption, graphics, number=n, parent_id=fig_id, role="supplement")


def random_context(rng: Rng, condition: str, drug: str, author: str) -> dict[str, str]:
    """The slots that an article's texts share."""
    return {"condition": condition, "drug": drug, "gene": pick(rng, vocabulary()["genes"]), "author": author}
