"""A file that is read at places, by several threads, without being mapped.

Pages of a mapping count as the process's memory once they were touched, 2 MiB for a row of 1 KiB where the kernel's cache is
of huge pages, and a fault costs more than a read.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path


class Reader:
    """An open file; what of it is kept in memory is the kernel's business."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where it can't be opened."""
        self._name = path.name
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, place: int, count: int) -> bytes:
        """So many bytes.

        Raises:
            OSError: it can't be read, or is shorter.
        """
        found = bytearray(count)
        self.read_into(memoryview(found), place)
        return bytes(found)

    def read_into(self, into: memoryview, place: int) -> None:
        """Fill a buffer of bytes.

        Raises:
            OSError: as ``read``.
        """
        while (count := os.preadv(self._descriptor, [into], place)) < len(into):
            if not count:
                raise OSError(f"{self._name}: became shorter while it was read")
            into, place = into[count:], place + count
