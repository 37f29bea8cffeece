"""Blocks that are freed are kept: a batch after the first takes no page faults, on the thread that calls and on later ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from biomedray.model.malloc import keep_freed

GLIBC = sys.platform.startswith("linux") and __import__("platform").libc_ver()[0] == "glibc"
CODE = """
import resource, sys, threading
from biomedray.model.malloc import keep_freed
if sys.argv[1] == "kept":
    assert keep_freed()
def batches():
    for _ in range(3):
        blocks = [b"x" * (size << 20) for size in (20, 40, 80)]
        del blocks
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [b"x" * (size << 20) for size in (20, 40, 80)]
        del blocks
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
if sys.argv[2] == "thread":
    thread = threading.Thread(target=batches)
    thread.start()
    thread.join()
else:
    batches()
"""


def faults(way: str, where: str) -> int:
    found = subprocess.run([sys.executable, "-c", CODE, way, where], capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(not GLIBC, reason="only glibc's malloc is told")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_later_batches_take_no_page_faults(where: str) -> None:
    pages = 5 * 140 * 256
    assert faults("default", where) > pages / 2
    assert faults("kept", where) < pages / 200


def test_a_gpu_needs_nothing() -> None:
    assert not keep_freed("cuda")
