"""Model folders as open_clip reads them: find, load, write.

open_clip_config.json + open_clip_model.safetensors + tokenizer files [+ config.json of a BERT]

open_clip 3.3 takes weights and tokenizer from the folder itself, but asks ``hf_model_name`` of the
configuration for the BERT's ``config.json``, and only an absolute path is sure to be found. ``export``
therefore writes the folder's own path there, ``open_folder`` always puts the present one in its place,
and ``relocate`` rewrites it for a plain open_clip after a move.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from safetensors.torch import save_file
from torch import nn

from biomedray.artifacts import atomic_path, fingerprint, is_finished, write_atomic
from biomedray.errors import UserError

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
BERT_CONFIG = "config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")

_LOCAL = "local-dir:"
_HUB = "hf-hub:"
_HUB_FILES = [
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "*.txt",
    "*token*.json",
    BERT_CONFIG,
]
_WEIGHT_NAMES = (WEIGHTS, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class OpenedModel:
    """A model in memory with all that its folder says about it."""

    clip: nn.Module
    config: dict[str, Any]
    """``model_cfg`` and ``preprocess_cfg``."""
    tokenizer: Any
    """open_clip's tokenizer: list of n texts -> [n, context_length] int64."""
    fingerprint: str
    """Identity of configuration and weights, the same wherever the folder lies."""


def find(spec: str | Path) -> Path:
    """The folder that a model spec names: a folder, ``local-dir:FOLDER`` or ``hf-hub:org/name``.

    Raises:
        UserError: nothing there, no configuration or weights in it, an unfinished run.
    """
    text = str(spec)
    folder = _fetch(text.removeprefix(_HUB)) if text.startswith(_HUB) else Path(text.removeprefix(_LOCAL))
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder")
    _require(folder)
    return folder.resolve()


def _require(folder: Path) -> None:
    again = "; its training is unfinished: start the same command again" if (folder / "run.json").is_file() else ""
    if is_finished(folder):
        kind = _json(folder / "manifest.json").get("kind")
        if kind != "model":
            raise UserError(f"{folder}: a {kind} artifact, but a model is wanted")
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: not a model folder (no {CONFIG}){again}")
    if not any((folder / name).is_file() for name in _WEIGHT_NAMES):
        raise UserError(f"{folder}: a model folder without weights (no {WEIGHTS}){again}")


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:  # noqa: BLE001  # the hub client raises some twenty kinds; all mean: not to be had
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{_HUB}{name}: cannot be fetched ({line}); give a local folder") from None


def open_folder(spec: str | Path, device: str = "cpu") -> OpenedModel:
    """Load a model, its preprocessing settings and its tokenizer with plain open_clip.

    Raises:
        UserError: as ``find``, or configuration, weights and tokenizer do not fit together.
    """
    folder = find(spec)
    config = _json(folder / CONFIG)
    if not isinstance(config.get("model_cfg"), dict):
        raise UserError(f"{folder / CONFIG}: holds no model_cfg")
    _require_tokenizer(folder, config["model_cfg"])
    try:
        with _patched(folder, config) as view:
            clip = open_clip.create_model(f"{_LOCAL}{view}", device=device)
            tokenizer = open_clip.get_tokenizer(f"{_LOCAL}{view}")
    except Exception as error:  # noqa: BLE001  # whatever open_clip, timm, transformers and torch find wrong with the files
        line = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(f"{folder}: not a model that open_clip can load: {line}") from None
    return OpenedModel(clip.eval(), config, tokenizer, _identity(folder, config))


def _require_tokenizer(folder: Path, model_cfg: dict[str, Any]) -> None:
    wanted = model_cfg.get("text_cfg", {}).get("hf_tokenizer_name")
    if wanted and not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise UserError(f"{folder}: a model folder without tokenizer (no tokenizer.json)")


@contextlib.contextmanager
def _patched(folder: Path, config: dict[str, Any]) -> Iterator[Path]:
    """A throw-away view of a model folder whose configuration points to where the folder is now."""
    with tempfile.TemporaryDirectory(prefix="biomedray-model-") as name:
        view = Path(name)
        for path in folder.iterdir():
            if path.is_file() and path.name != CONFIG:
                (view / path.name).symlink_to(path)
        (view / CONFIG).write_text(json.dumps(_pointing_to(config, folder)))
        yield view


def _pointing_to(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    text_cfg = config["model_cfg"].get("text_cfg", {})
    if "hf_model_name" not in text_cfg or not (folder / BERT_CONFIG).is_file():
        return config
    text_cfg = {**text_cfg, "hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_model_pretrained": False}
    return {**config, "model_cfg": {**config["model_cfg"], "text_cfg": text_cfg}}


def _identity(folder: Path, config: dict[str, Any]) -> str:
    text_cfg = {key: value for key, value in config["model_cfg"].get("text_cfg", {}).items() if not key.endswith("_name")}
    files = [path for name in (*_WEIGHT_NAMES, *TOKENIZER_FILES) if (path := folder / name).is_file()]
    digests = [_digest(path) for path in files]
    return fingerprint([config["model_cfg"].get("vision_cfg"), text_cfg, config.get("preprocess_cfg"), digests])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def export(folder: Path, clip: nn.Module, config: dict[str, Any], text_files: Path) -> None:
    """Write a model folder that plain open_clip loads by ``local-dir:`` with no network.

    ``config`` is ``{"model_cfg", "preprocess_cfg"}``; ``text_files`` a folder with the tokenizer
    (and the BERT's config.json, if the text tower is one). The configuration is written last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*TOKENIZER_FILES, BERT_CONFIG):
        if (text_files / name).is_file():
            write_atomic(folder / name, (text_files / name).read_bytes())
    tensors = {key: value.detach().cpu().float().contiguous() for key, value in clip.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    write_atomic(folder / CONFIG, json.dumps(_pointing_to(config, folder.resolve()), indent=2) + "\n")


def relocate(folder: Path) -> None:
    """After a move or copy: make the configuration point to the folder again, for plain open_clip."""
    path = find(folder) / CONFIG
    write_atomic(path, json.dumps(_pointing_to(_json(path), path.parent), indent=2) + "\n")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object")
    return value


def parameter_count(module: nn.Module) -> int:
    """Number of trainable and frozen parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def load_text_weights(clip: nn.Module, name: str) -> None:
    """Copy the weights of a Hugging Face text model (folder or hub name) into a text tower of the same shape.

    Raises:
        UserError: the weights belong to another architecture.
    """
    from transformers import AutoModel

    tower: Any = clip
    try:
        source = AutoModel.from_pretrained(name, add_pooling_layer=False)
        tower.text.transformer.load_state_dict(source.state_dict())
    except Exception as error:  # noqa: BLE001  # transformers raises many kinds for files that do not fit
        raise UserError(f"{name}: its weights do not fit its config.json: {str(error).splitlines()[0]}") from None


def has_weights(folder: Path) -> bool:
    """Whether a Hugging Face model folder holds weights beside its configuration."""
    return any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))
