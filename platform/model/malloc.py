"""What the C library does with large blocks that are freed: keep them for the next batch, where a CPU computes one after another.

glibc maps every block above 32 MB anew and gives the end of its heap back as soon as it is free. The next batch of the same
shapes then takes a page fault for each 4 KB of its activations: 12 ms of system time a picture of ViT-B/16, beside some 65 of
computing, in which the other threads wait (benchmarks/serve_malloc.py: 25 and 32 pictures a second on two cores). Kept, these
blocks cost memory that the process had at its peak anyhow.
"""

from __future__ import annotations

import ctypes
import sys

# Of glibc's malloc.h; values that no activation reaches.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGE = 1 << 30


def keep_freed(device: str = "cpu") -> bool:
    """Keep what is freed from now on; what lies free already, as after loading weights, goes back first.

    For a process that embeds or trains on a CPU, called once its model is loaded: it holds for the whole process. Threads
    that start later share the first heap, as those of their own are cut into 64 MB. Returns whether it could be said;
    other C libraries than glibc, and GPUs, which keep their memory themselves, need nothing.
    """
    if device != "cpu" or not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "gnu_get_libc_version"):
        return False
    library.malloc_trim(0)
    settings = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _LARGE))
    heard = [library.mallopt(name, value) for name, value in settings]
    return all(heard)
