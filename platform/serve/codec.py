"""A process of its own for large compressed DICOM frames: their decoders hold Python's lock for seconds, and may crash.

thread -> [frame, pixels allowed, size, file] -> stdin of the process -> dicom.read_dicom -> stdout: 8-bit pixels, or a reason

It starts with the first such file, serves one at a time and ends with its parent. What takes too long is killed with it.
"""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
from typing import IO

import numpy as np

from biomedray.dicom import Pixels, read_dicom
from biomedray.pixels import PixelError
from biomedray.records import Reason

_ASKED = struct.Struct("<qqq")
_SIZE = struct.Struct("<q")
_COMMAND = (sys.executable, "-m", "biomedray.serve.codec")
_LOST = "DICOM: the compressed frame could not be decoded in time, or its decoder failed"


class Codec:
    """Asks the process; thread-safe."""

    def __init__(self, seconds: float) -> None:
        """``seconds``: what one frame may take, the start of the process included."""
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def frame(self, data: bytes, number: int | None, max_pixels: int) -> Pixels:
        """As ``dicom.read_dicom``.

        Raises:
            PixelError: as there, or it took too long.
        """
        with self._lock:
            process = self._running()
            timer = threading.Timer(self._seconds, process.kill)
            timer.start()
            try:
                answer = _ask(process, _ASKED.pack(-1 if number is None else number, max_pixels, len(data)) + data)
            except (OSError, EOFError):
                self._drop()
                raise PixelError(Reason.UNDECODABLE, _LOST) from None
            finally:
                timer.cancel()
        if answer[:6] == b"\x93NUMPY":
            pixels: Pixels = np.load(io.BytesIO(answer), allow_pickle=False)
            return pixels
        reason, _, detail = answer.decode().partition("\n")
        raise PixelError(Reason(reason), detail)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(  # noqa: S603  # this very module
                _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        return self._process

    def _drop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None


def _ask(process: subprocess.Popen[bytes], question: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(question)
    process.stdin.flush()
    return _exactly(process.stdout, _SIZE.unpack(_exactly(process.stdout, _SIZE.size))[0])


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _answer(data: bytes, number: int, max_pixels: int) -> bytes:
    try:
        pixels = read_dicom(data, None if number < 0 else number, max_pixels)
    except PixelError as error:
        return f"{error.reason.value}\n{error}".encode()
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    return buffer.getvalue()


def main() -> None:
    """Answer until the parent is gone."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    sys.stdout = sys.stderr  # what a decoder may print is no answer
    while True:
        try:
            number, max_pixels, size = _ASKED.unpack(_exactly(sys.stdin.buffer, _ASKED.size))
            answer = _answer(_exactly(sys.stdin.buffer, size), number, max_pixels)
        except EOFError:
            return
        out.write(_SIZE.pack(len(answer)) + answer)
        out.flush()


if __name__ == "__main__":
    main()
