"""What 'biomedray embed' is given, one entry at a time: image files, folders of them, lines of text files, standard input.

a.png  scan.dcm        an image each
FOLDER                 every file in it and below, in the order of names; what is no image is left out with a reason
captions.txt           a text a line
captions.jsonl         "a text", or {"text": "...", "name": "..."} ('caption', 'id' and 'pair_id' will do too), a line
-                      standard input, a text a line
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from biomedray import dicom, pixels
from biomedray.errors import UserError
from biomedray.records import Reason

Kind = Literal["image", "text"]
_HEAD = 256
_TEXT_KEYS = ("text", "caption")
_NAME_KEYS = ("name", "id", "pair_id")


@dataclass(frozen=True)
class Entry:
    """One thing to embed: the path of an image file, or a text."""

    name: str
    kind: Kind
    value: Path | str


@dataclass(frozen=True)
class Left:
    """One thing that has no embedding, and why."""

    name: str
    kind: Kind
    reason: str
    detail: str


def find_entries(files: Sequence[str], stdin: BinaryIO) -> list[Entry | Left]:
    """All entries of what the user named, in order.

    Raises:
        UserError: there is no such file, or a folder or file holds nothing.
    """
    if not files:
        raise UserError("name image files, folders, .txt or .jsonl files of texts, or - for texts from standard input")
    found: list[Entry | Left] = []
    for name in files:
        before = len(found)
        found += _of_lines(stdin.read(), "-", as_json=False) if name == "-" else _of_path(Path(name))
        if len(found) == before:
            raise UserError(f"{'standard input' if name == '-' else name}: nothing to embed in it")
    return found


def _of_path(path: Path) -> Iterator[Entry | Left]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and not file.name.startswith("."):
                yield _of_folder(file)
    elif not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    elif path.suffix.lower() in (".txt", ".jsonl"):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        yield from _of_lines(data, str(path), path.suffix.lower() == ".jsonl")
    else:
        yield Entry(str(path), "image", path)


def _of_folder(file: Path) -> Entry | Left:
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        return Left(str(file), "image", "unreadable", str(error.strerror))
    if head and not pixels.sniff(head) and not dicom.is_dicom(head):
        detail = "not an image" + ("; name it itself for its lines" if file.suffix.lower() in (".txt", ".jsonl") else "")
        return Left(str(file), "image", Reason.UNSUPPORTED_FORMAT.value, detail)
    return Entry(str(file), "image", file)


def _of_lines(data: bytes, name: str, as_json: bool) -> Iterator[Entry | Left]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        place = f"{name}:{number}"
        try:
            text = line.decode()
        except UnicodeDecodeError:
            yield Left(place, "text", "invalid_encoding", "not UTF-8")
            continue
        if not text.strip():
            yield Left(place, "text", "empty_text", "an empty line")
        elif as_json:
            yield _of_json(text, place)
        else:
            yield Entry(place, "text", text.strip())


def _of_json(line: str, place: str) -> Entry | Left:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return Left(place, "text", "invalid_json", "the line is not valid JSON")
    fields = value if isinstance(value, dict) else {"text": value}
    text = next((fields[key] for key in _TEXT_KEYS if key in fields), None)
    if not isinstance(text, str):
        return Left(place, "text", "invalid_line", 'neither a text nor an object with "text"')
    named = next((fields[key] for key in _NAME_KEYS if isinstance(fields.get(key), str | int)), place)
    if not text.strip():
        return Left(str(named), "text", "empty_text", "an empty text")
    return Entry(str(named), "text", text)
