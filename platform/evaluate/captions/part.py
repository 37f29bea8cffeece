"""One split of a set of pictures with captions: what stands where, and what the set names but has not got."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from biomedray.artifacts import fingerprint
from biomedray.evaluate.samples import Sample
from biomedray.evaluate.sets.image_set import Source
from biomedray.records import Reason

Reject = dict[str, str]


@dataclass(frozen=True)
class Row:
    """A picture's place in the source with a caption."""

    id: str
    caption: str
    group: str
    position: int


@dataclass(frozen=True)
class Part:
    """A split; row i is the picture at ``positions[i]`` of the source."""

    ids: tuple[str, ...]
    captions: tuple[str, ...]
    groups: tuple[str, ...]
    positions: tuple[int, ...]
    source: Source
    left_out: tuple[Reject, ...]
    """id, reason, detail of what is named but has no picture or no caption."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def identity(self) -> str:
        """The same for the same rows of the same content."""
        return fingerprint([self.source.identity, self.ids, self.captions, self.groups, self.positions])

    def read(self, start: int, stop: int) -> list[Sample]:
        """Rows ``start`` to ``stop`` with their pictures."""
        rows = range(start, min(stop, len(self)))
        wanted = sorted({self.positions[row] for row in rows})
        images = dict(zip(wanted, self.source.read(wanted), strict=True))
        return [
            Sample(self.ids[row], images[self.positions[row]], caption=self.captions[row], group=self.groups[row]) for row in rows
        ]


def part(rows: Sequence[Row], source: Source, left_out: Sequence[Reject]) -> Part:
    """A split of rows; those without a caption are left out, and an id that comes again gets a number."""
    seen: dict[str, int] = {}
    kept, ids, empty = [], [], []
    for row in rows:
        if not row.caption.strip():
            empty.append(reject(row.id, Reason.NO_CAPTION, "no caption"))
            continue
        seen[row.id] = count = seen.get(row.id, 0) + 1
        kept.append(row)
        ids.append(row.id if count == 1 else f"{row.id}#{count}")
    captions = tuple(row.caption.strip() for row in kept)
    groups, positions = tuple(row.group for row in kept), tuple(row.position for row in kept)
    return Part(tuple(ids), captions, groups, positions, source, (*left_out, *empty))


def reject(name: str, reason: Reason, detail: str) -> Reject:
    """What is said of a row that is left out."""
    return {"id": name, "reason": str(reason), "detail": detail}
