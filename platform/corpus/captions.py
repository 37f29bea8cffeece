"""Captions: of a single picture, and of a compound figure with its sub-captions and their spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from biomedray.corpus.draw.canvas import Attributes, Rng
from biomedray.corpus.grammar import chance, expand, pick, plain, sentence
from biomedray.corpus.kinds import Kind, all_kinds
from biomedray.corpus.plan import Caption, Panel, SubCaption
from biomedray.corpus.topics import Journal, vocabulary

Context = Mapping[str, str]

_FORMULA_SHARE = 0.04


@dataclass(frozen=True)
class Prose:
    """How much captions say beside what is seen: shares of all captions, 0 to 1."""

    long: float = 0.16
    """With sentences of background."""
    late: float = 0.3
    """Of these the ones that open with it, so that what is seen comes late."""
    compound_late: float = 0.0
    """The same of compound figures."""
    whole: bool = False
    """All the background that there is (70 to 130 words), or some of it."""

    @classmethod
    def of(cls, long_captions: float | None) -> Prose:
        """The usual mixture (None), or this share of captions long, with what is seen at their end."""
        return cls() if long_captions is None else cls(long_captions, 1.0, 1.0, whole=True)


@dataclass(frozen=True)
class Voice:
    """What all captions of an article share."""

    rng: Rng
    context: Context
    journal: Journal
    prose: Prose


def single(voice: Voice, kind: Kind, attributes: Attributes) -> Caption:
    """The caption of one picture: what is seen, and the remarks that journals add."""
    rng, context, journal, prose = voice.rng, voice.context, voice.journal, voice.prose
    seen = sentence(kind.phrase(rng, attributes, context))
    notes = _notes(rng, kind, context)
    topic_title = sentence(expand(rng, f"{kind.noun} in {{condition}}", context))
    long = _filler(voice, kind.family) if chance(rng, prose.long) else []
    before, after = (long, []) if chance(rng, prose.late) else ([], long)
    if journal.caption == "title" and chance(rng, 0.5):
        return _assemble(journal, seen, [*before, *notes, *after])
    head = topic_title if journal.caption != "plain" or chance(rng, 0.4) else None
    return _assemble(journal, head, [*before, seen, *notes, *after])


def compound(voice: Voice, panels: Sequence[Panel]) -> Caption:
    """A lead, then one sub-caption per panel (or per run of like panels), then remarks."""
    rng, context, journal, prose = voice.rng, voice.context, voice.journal, voice.prose
    kinds = all_kinds()
    lead = sentence(expand(rng, pick(rng, vocabulary()["leads"]), context))
    runs = _runs(panels)
    phrases = [_run_phrase(rng, kinds[run[0].kind], run, context) for run in runs]
    labels = [tuple(str(panel.label) for panel in run) for run in runs]
    trailing = chance(rng, 0.1)
    pieces = _trailing(phrases, labels) if trailing else _leading(phrases, labels, journal)
    notes = _notes(rng, kinds[panels[0].kind], context)
    long = _filler(voice, kinds[panels[0].kind].family) if chance(rng, prose.long) else []
    before, after = (long, []) if prose.compound_late and chance(rng, prose.compound_late) else ([], long)
    caption = _assemble(journal, lead, [*before, "".join(marker + text + tail for marker, text, tail in pieces), *notes, *after])
    parts = _spans(caption.text, [plain(text) for _, text, _ in pieces], labels)
    return Caption(caption.title, caption.paragraphs, caption.text, tuple(parts))


def shared(voice: Voice, kind: Kind, attributes: Attributes) -> Caption:
    """The caption of a fig-group whose members have none of their own."""
    rng, context, journal = voice.rng, voice.context, voice.journal
    seen = sentence(kind.phrase(rng, attributes, context))
    return _assemble(
        journal, sentence(expand(rng, pick(rng, vocabulary()["leads"]), context)), [seen, *_notes(rng, kind, context)]
    )


def _assemble(journal: Journal, head: str | None, sentences: Sequence[str]) -> Caption:
    """Title and paragraphs in the journal's manner, with the clean text that they amount to."""
    body = " ".join(sentences)
    if journal.caption == "title" and head is not None:
        split = len(sentences) > 4
        paragraphs = (" ".join(sentences[:3]), " ".join(sentences[3:])) if split else ((body,) if body else ())
        return Caption(head, paragraphs, " ".join(plain(text) for text in (head, *paragraphs)))
    if head is not None:
        body = (f"<bold>{head}</bold> {body}" if journal.caption == "bold" else f"{head} {body}").strip()
    return Caption(None, (body,), plain(body))


def _notes(rng: Rng, kind: Kind, context: Context) -> list[str]:
    count = int(rng.integers(0, min(3, len(kind.notes) + 1)))
    chosen = rng.permutation(len(kind.notes))[:count]
    formula = [str(vocabulary()["formula"])] if chance(rng, _FORMULA_SHARE) else []
    return [sentence(expand(rng, kind.notes[i], context)) for i in sorted(chosen.tolist())] + formula


def _filler(voice: Voice, family: str) -> list[str]:
    rng, pool = voice.rng, vocabulary()["long"][family]
    count = len(pool) if voice.prose.whole else int(rng.integers(max(2, len(pool) - 2), len(pool) + 1))
    return [sentence(expand(rng, pool[i], voice.context)) for i in sorted(rng.permutation(len(pool))[:count].tolist())]


def _runs(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Neighbours that show the same share a sub-caption."""
    runs: list[list[Panel]] = []
    for panel in panels:
        if runs and (runs[-1][0].kind, runs[-1][0].attributes) == (panel.kind, panel.attributes):
            runs[-1].append(panel)
        else:
            runs.append([panel])
    return runs


def _run_phrase(rng: Rng, kind: Kind, run: Sequence[Panel], context: Context) -> str:
    phrase = kind.phrase(rng, run[0].attributes, context)
    return phrase if len(run) == 1 else f"{pick(rng, ('two', 'repeated'))} examples of {phrase}"


def _joined(labels: tuple[str, ...]) -> str:
    if len(labels) == 1:
        return labels[0]
    return f"{labels[0]}, {labels[1]}" if len(labels) == 2 else f"{labels[0]}\N{EN DASH}{labels[-1]}"


def _leading(phrases: list[str], labels: list[tuple[str, ...]], journal: Journal) -> list[tuple[str, str, str]]:
    """(marker, text, separator): "(A) Text. (B) Text." in the journal's manner."""
    last = len(phrases) - 1
    return [
        (journal.markers.format(p=_joined(label)), sentence(text), "" if i == last else " ")
        for i, (text, label) in enumerate(zip(phrases, labels, strict=True))
    ]


def _trailing(phrases: list[str], labels: list[tuple[str, ...]]) -> list[tuple[str, str, str]]:
    """Text (A), text (B) and text (C)."""
    pieces = []
    for i, (text, label) in enumerate(zip(phrases, labels, strict=True)):
        left = len(phrases) - 1 - i
        tail = "." if left == 0 else (" and " if left == 1 else ", ")
        words = sentence(text).removesuffix(".") if i == 0 else text
        pieces.append(("", words, f" ({_joined(label)}){tail}"))
    return pieces


def _spans(caption: str, texts: Sequence[str], labels: Sequence[tuple[str, ...]]) -> list[SubCaption]:
    parts, at = [], 0
    for text, label in zip(texts, labels, strict=True):
        start = caption.index(text, at)
        at = start + len(text)
        parts.append(SubCaption(label, text, start, at))
    return parts
