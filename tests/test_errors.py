"""What a traceback comes down to in a table."""

from __future__ import annotations

import pytest

from biomedray.errors import last_error

KILLED = """ray.exceptions.RayTaskError(WorkerGroupError): ray::run()
  File "x.py", line 3, in run
ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.
Memory on the node was 22.50GB / 23.54GB.
Refer to the documentation on how to address the out of memory issue: https://a.long/address.
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (KILLED, "ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory."),
        ("Traceback\n  File x\nValueError: no\n\nValueError: yes\n", "ValueError: yes"),
        ("only words\nand the last of them", "and the last of them"),
        ("", ""),
    ],
)
def test_the_line_that_names_the_error(text: str, line: str) -> None:
    assert last_error(text) == line


def test_a_long_line_is_cut() -> None:
    assert last_error("OSError: " + "x" * 900) == "OSError: " + "x" * 187 + " ..."
