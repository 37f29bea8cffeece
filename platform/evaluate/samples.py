"""What evaluation reads: a set of images with captions or classes, each addressed by its position in a split.

A set holds paths and numbers, never pictures, so it can be sent to any worker, which reads its own stretch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

UNLABELLED = -1


@dataclass(frozen=True)
class Sample:
    """One image: the bytes of its file or its pixels ([H, W] or [H, W, 3] uint8), and what is known of it."""

    id: str
    """Unique in the set, and the same at every reading."""
    image: bytes | NDArray[np.uint8]
    label: int = UNLABELLED
    """Number of its class in the set's ``classes``."""
    caption: str = ""
    group: str = ""
    """What is not independent shares a group (patient, slide, article); by default each image is its own."""


class SampleSet(Protocol):
    """Images of one or several splits; it must survive pickling."""

    @property
    def name(self) -> str:
        """Short name of the set: pcam, pneumoniamnist, or the folder's own."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identity of the content (names, sizes, labels), wherever the files lie."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by number; none of a set of captions."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that are on disk, of train, val and test."""
        ...

    def size(self, split: str) -> int:
        """How many samples a split has."""
        ...

    def read(self, split: str, start: int, stop: int) -> list[Sample]:
        """Samples ``start`` to ``stop`` of a split, in the set's own fixed order.

        Raises:
            UserError: a file that was there when the set was opened can't be read.
        """
        ...
