"""A second home for a run's checkpoints: s3://bucket/run, or any other store, for machines that may vanish with their disks.

ADDRESS/run.json                      which run this is; written once the weights to start from are there
ADDRESS/start/...                     those weights
ADDRESS/samples-000012345/state.pt    as on disk; about.json comes last, so its presence says that the copy is whole
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from biomedray.errors import UserError
from biomedray.train.source import first_line, is_remote, open_filesystem, public

_PREFIX = "samples-"
_WHOLE = "about.json"
_RUN = "run.json"


@dataclass(frozen=True)
class Mirror:
    """A store for one run; plain text, so that it travels to workers."""

    address: str
    """An address with ``://``, or a folder."""
    identity: str
    """Which run: a hash of its settings and pairs."""

    def is_claimed(self) -> bool:
        """Whether this run is in the store already.

        Raises:
            UserError: another run is, or the store can't be read.
        """
        filesystem, base = self._opened()
        try:
            if filesystem.get_file_info(f"{base}/{_RUN}").type != fs.FileType.File:
                return False
            with filesystem.open_input_stream(f"{base}/{_RUN}") as file:
                found = json.loads(file.read())
        except Exception as error:  # noqa: BLE001  # each file system raises errors of its own; all mean that it can't be read
            raise UserError(f"--storage {public(self.address)}: cannot be read ({first_line(error)})") from None
        if found != {"config": self.identity}:
            raise UserError(
                f"--storage {public(self.address)}: holds another run (other settings or pairs); choose another address"
            )
        return True

    def claim(self, start: Path) -> None:
        """Put the weights to start from there, then say whose the place is.

        Raises:
            UserError: the store can't be written to.
        """
        filesystem, base = self._opened()
        try:
            self._copy_in(start, f"{base}/{start.name}")
            with filesystem.open_output_stream(f"{base}/{_RUN}") as file:
                file.write(json.dumps({"config": self.identity}).encode())
        except Exception as error:  # noqa: BLE001  # as above
            raise UserError(f"--storage {public(self.address)}: cannot be written ({first_line(error)})") from None

    def upload(self, checkpoint: Path, keep: int) -> None:
        """Copy a checkpoint, and drop those beyond the newest ``keep``."""
        filesystem, base = self._opened()
        target = f"{base}/{checkpoint.name}"
        filesystem.create_dir(target, recursive=True)
        for path in sorted(checkpoint.iterdir(), key=lambda path: path.name == _WHOLE):
            fs.copy_files(
                str(path), f"{target}/{path.name}", source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem
            )
        for old in self._names()[:-keep]:
            filesystem.delete_dir(f"{base}/{old}")

    def newest(self) -> str | None:
        """Name of the newest whole checkpoint there."""
        filesystem, base = self._opened()
        for name in reversed(self._names()):
            if filesystem.get_file_info(f"{base}/{name}/{_WHOLE}").type == fs.FileType.File:
                return name
        return None

    def fetch(self, name: str, folder: Path) -> None:
        """Copy what lies under a name there into a folder here, whole or not at all."""
        filesystem, base = self._opened()
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".checkpoint-", dir=folder))
        try:
            fs.copy_files(
                f"{base}/{name}", str(temporary), source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem()
            )
            temporary.chmod(0o755)
            if not (folder / name).exists():  # another worker of this machine may have been quicker
                temporary.rename(folder / name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _names(self) -> list[str]:
        filesystem, base = self._opened()
        found = filesystem.get_file_info(fs.FileSelector(base, allow_not_found=True))
        return sorted(entry.base_name for entry in found if entry.base_name.startswith(_PREFIX))

    def _copy_in(self, folder: Path, target: str) -> None:
        filesystem, _ = self._opened()
        filesystem.create_dir(target, recursive=True)
        fs.copy_files(str(folder), target, source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem)

    def _opened(self) -> tuple[Any, str]:
        if is_remote(self.address):
            return open_filesystem(self.address)
        return fs.LocalFileSystem(), str(Path(self.address).resolve())
