"""Shards of an index in actors of their own: a batch of queries goes to all of them, their answers are merged by score.

    search_many(queries) -> asks --> shard 0 (base-000, delta-..) --+
                                 --> shard 1 (base-001)           --+-> merge -> records from the shards that have the rows
                                 --> shard 2: late or down        --x   partial: 2 of 3 answered

With ``app`` the only module of the room that knows Ray; what is merged and how is in ``merge`` and ``search``, without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError

from biomedray.errors import UserError, WorkError
from biomedray.serve.generation import Generation, SegmentCard, Target, generation_folder
from biomedray.serve.search import Ask, Index, SearchIndex, Top, join_tops, open_generation

_SECONDS = 5.0
"""How long an answer waits for its slowest shard."""
_OPENING_SECONDS = 600.0


def share_out(generation: Generation, shards: int) -> list[list[SegmentCard]]:
    """Segments of each shard: the largest first, each to the shard with the fewest rows; no shard is empty."""
    parts: list[list[SegmentCard]] = [[] for _ in range(max(1, min(shards, len(generation.segments))))]
    for card in sorted(generation.segments, key=lambda card: (-card.rows, card.start)):
        min(parts, key=lambda part: sum(one.rows for one in part)).append(card)
    return [sorted(part, key=lambda card: card.start) for part in parts]


@ray.remote
class Shard:
    """Holds some segments of a generation; its methods run in as many threads as the actor has."""

    def __init__(self, folder: Path, generation: Generation, cards: Sequence[SegmentCard], threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        self._index = SearchIndex(folder, generation, cards)

    def ready(self) -> bool:
        """Whether it is open: an actor answers once its constructor is through."""
        return True

    def tops(self, asks: Sequence[Ask], count: int) -> list[Top]:
        """As ``Index.tops``, of this shard's rows."""
        return self._index.tops(asks, count)

    def records(self, rows: Sequence[int], places: bool) -> list[dict[str, Any]]:
        """As ``Index.records``."""
        return self._index.records(rows, places)

    def row_of(self, pair_id: str) -> int | None:
        """As ``Index.row_of``."""
        return self._index.row_of(pair_id)

    def vector(self, row: int, target: Target) -> NDArray[np.float32]:
        """As ``Index.vector``."""
        return self._index.vector(row, target)

    def cluster(self, row: int) -> int:
        """As ``Index.cluster``."""
        return self._index.cluster(row)


class ShardedIndex(Index):
    """An index whose segments are held by actors; a shard that is down or late is left out of an answer, which says so."""

    def __init__(
        self, generation: Generation, parts: Sequence[Sequence[SegmentCard]], actors: Sequence[Any], seconds: float
    ) -> None:
        self.generation = generation
        self.shards = len(actors)
        self._parts = list(parts)
        self._actors = list(actors)
        self._seconds = seconds

    @classmethod
    def open(cls, folder: Path, encoder_fingerprint: str, shards: int, cpus: int = 1, seconds: float = _SECONDS) -> ShardedIndex:
        """Open an index artifact in so many actors of the running Ray cluster, spread over its nodes, which must see the folder.

        Raises:
            UserError: as ``SearchIndex.open``.
            WorkError: a shard did not come up.
        """
        _, generation = open_generation(folder, encoder_fingerprint)
        where = generation_folder(folder.resolve(), generation.name)
        parts = share_out(generation, shards)
        options = {"num_cpus": cpus, "max_concurrency": 2 * cpus, "max_restarts": -1, "scheduling_strategy": "SPREAD"}
        kind: Any = Shard  # what the decorator returns is an actor class, which its types do not say
        actors = [kind.options(**options).remote(where, generation, part, cpus) for part in parts]
        index = cls(generation, parts, actors, seconds)
        try:
            ray.get([actor.ready.remote() for actor in actors], timeout=_OPENING_SECONDS)
        except RayError as error:
            index.close()
            cause = getattr(error, "cause", None)
            if isinstance(cause, UserError):
                raise cause from None
            raise WorkError(f"{folder}: a shard did not come up: {str(error).strip().splitlines()[-1]}") from error
        return index

    def tops(self, asks: Sequence[Ask], count: int) -> list[Top]:
        """The best ``count`` of each ask, of the shards that answered in time.

        Raises:
            WorkError: none did.
        """
        waiting = [actor.tops.remote(asks, count) for actor in self._actors]
        answers = self._answers(waiting)
        if not answers:
            raise WorkError("no shard of the index answers; try again")
        return [join_tops([answer[place] for answer in answers], asks[place], count) for place in range(len(asks))]

    def records(self, rows: Sequence[int], places: bool = False) -> list[dict[str, Any]]:
        """The metadata of rows; where their images lie too if ``places``.

        Raises:
            WorkError: a shard that has one of them is down.
        """
        holders = [self._holder(row) for row in rows]
        wanted = {holder: [row for row, own in zip(rows, holders, strict=True) if own == holder] for holder in set(holders)}
        asked = {holder: self._actors[holder].records.remote(own, places) for holder, own in wanted.items()}
        found = {row: record for holder, own in wanted.items() for row, record in zip(own, self._one(asked[holder]), strict=True)}
        return [found[row] for row in rows]

    def row_of(self, pair_id: str) -> int | None:
        """The row of a pair, if a shard that answers has it."""
        answers = self._answers([actor.row_of.remote(pair_id) for actor in self._actors])
        return next((row for row in answers if row is not None), None)

    def vector(self, row: int, target: Target) -> NDArray[np.float32]:
        """The stored embedding [d] of a row's figure or caption."""
        found: NDArray[np.float32] = self._one(self._actors[self._holder(row)].vector.remote(row, target))
        return found

    def cluster(self, row: int) -> int:
        """Hash of a row's duplicate cluster."""
        return int(self._one(self._actors[self._holder(row)].cluster.remote(row)))

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            ray.kill(actor)

    def _holder(self, row: int) -> int:
        return next(
            number for number, part in enumerate(self._parts) for card in part if card.start <= row < card.start + card.rows
        )

    def _answers(self, waiting: Sequence[Any]) -> list[Any]:
        """What came in time, without errors."""
        ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=self._seconds)
        return [answer for ok, answer in map(_get, ready) if ok]

    def _one(self, reference: Any) -> Any:
        answers = self._answers([reference])
        if not answers:
            raise WorkError("a shard of the index does not answer; try again")
        return answers[0]


def _get(reference: Any) -> tuple[bool, Any]:
    try:
        return True, ray.get(reference)
    except RayError:
        return False, None
