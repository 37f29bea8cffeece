"""Model folders as open_clip reads them: find, load, write.

open_clip_config.json + open_clip_model.safetensors + tokenizer files [+ config.json of a BERT]

open_clip 3.3 takes weights and tokenizer from the folder itself, but asks ``hf_model_name`` of the
configuration for the BERT's ``config.json``, and only an absolute path is sure to be found. ``export``
therefore writes the folder's own path there, ``open_folder`` always puts the present one in its place,
``relocate`` rewrites it for a plain open_clip after a move, and ``for_hub`` puts the tower's public name back.
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
from open_clip.hf_model import HFTextEncoder
from safetensors.torch import save_file
from torch import nn

from biomedray.artifacts import atomic_path, fingerprint, is_finished, one, write_atomic
from biomedray.errors import UserError
from biomedray.model import bert

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
# Of tokenizers that others made; they count for the identity of a model that has them.
_OTHER_TOKENIZER_FILES = ("added_tokens.json", "merges.txt", "vocab.json")

_LOCAL = "local-dir:"
_HUB = "hf-hub:"
_HUB_FILES = [
    "open_clip_config.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "*.txt",
    "*token*.json",
    bert.CONFIG,
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
    folder = _fetch(text.removeprefix(_HUB)) if text.startswith(_HUB) else _snapshot(Path(text.removeprefix(_LOCAL)))
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder")
    _require(folder)
    return folder.resolve()


def _snapshot(folder: Path) -> Path:
    """A folder of the hub's own cache (models--org--name) stands for the snapshot that its main branch names."""
    main = folder / "refs" / "main"
    if not main.is_file() or (folder / CONFIG).is_file():
        return folder
    return folder / "snapshots" / main.read_text().strip()


def _require(folder: Path) -> None:
    again = "; its training is unfinished: start the same command again" if (folder / "run.json").is_file() else ""
    if is_finished(folder):
        kind = _json(folder / "manifest.json").get("kind")
        if kind != "model":
            raise UserError(f"{folder}: {one(str(kind))} artifact, but a model is wanted")
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
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever open_clip, timm, transformers and torch find wrong with the files
        line = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(f"{folder}: not a model that open_clip can load: {line}") from None
    _check_text(folder, clip, tokenizer)
    return OpenedModel(clip.eval(), config, tokenizer, _identity(folder, config))


def _check_text(folder: Path, clip: Any, tokenizer: Any) -> None:
    """Tokenizer and text tower belong together, and a caption's positions are all there."""
    inner, text = getattr(tokenizer, "tokenizer", None), clip.text if hasattr(clip, "text") else clip
    if inner is not None and isinstance(text, HFTextEncoder):
        check_vocabulary(str(folder), inner, text.vocab_size, text.config.pad_token_id)
    elif inner is not None:
        check_vocabulary(str(folder), inner, text.vocab_size)
    if tokenizer.context_length > text.context_length:
        raise UserError(
            f"{folder}: context_length {tokenizer.context_length}, but its text tower has only {text.context_length} positions; "
            f"set context_length in {CONFIG} to {text.context_length} or less"
        )


def check_vocabulary(what: str, tokenizer: Any, words: int, pad_id: int | None = None) -> None:
    """Refuse a tokenizer that gives ids which a text tower of so many ``words`` has no embedding for.

    Raises:
        UserError: they don't belong together.
    """
    if len(tokenizer) > words:
        raise UserError(
            f"{what}: its tokenizer has {len(tokenizer)} words, but its text tower only {words}; "
            "put the tokenizer there that the tower was trained with"
        )
    if pad_id is not None and tokenizer.pad_token_id != pad_id:
        raise UserError(
            f"{what}: its tokenizer pads with {tokenizer.pad_token_id}, but its text tower ignores {pad_id}; "
            f"set pad_token_id in {bert.CONFIG} to {tokenizer.pad_token_id}"
        )


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
            if path.is_file() and path.name not in (CONFIG, bert.CONFIG):
                (view / path.name).symlink_to(path)
        tower = config["model_cfg"].get("text_cfg", {}).get("hf_model_name")
        if tower is not None:
            (view / bert.CONFIG).write_text(json.dumps(bert.config_of(folder, tower, weights_file(folder))))
        (view / CONFIG).write_text(json.dumps(_pointing_to(config, view)))
        yield view


def weights_file(folder: Path) -> Path:
    """The file of a model folder that open_clip takes the weights from."""
    return next(folder / name for name in _WEIGHT_NAMES if (folder / name).is_file())


def _pointing_to(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    text_cfg = config["model_cfg"].get("text_cfg", {})
    if "hf_model_name" not in text_cfg:
        return config
    text_cfg = {**text_cfg, "hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_model_pretrained": False}
    return {**config, "model_cfg": {**config["model_cfg"], "text_cfg": text_cfg}}


def _identity(folder: Path, config: dict[str, Any]) -> str:
    text_cfg = {key: value for key, value in config["model_cfg"].get("text_cfg", {}).items() if not key.endswith("_name")}
    names = (*_WEIGHT_NAMES, *TOKENIZER_FILES, *_OTHER_TOKENIZER_FILES)
    files = [path for name in names if (path := folder / name).is_file()]
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
    copy_text_files(text_files, clip, folder)
    tensors = {key: value.detach().cpu().float().contiguous() for key, value in clip.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    write_atomic(folder / CONFIG, json.dumps(_pointing_to(config, folder.resolve()), indent=2) + "\n")


def copy_text_files(source: Path, clip: Any, folder: Path) -> None:
    """The tokenizer of a model folder, and the config.json of its BERT, which the hub's folders lack."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*TOKENIZER_FILES, bert.CONFIG):
        if (source / name).is_file():
            write_atomic(folder / name, (source / name).read_bytes())
    text = getattr(clip, "text", None)
    if isinstance(text, HFTextEncoder) and not (folder / bert.CONFIG).is_file():
        values = {**text.config.to_dict(), "_name_or_path": _public_name(source)}
        write_atomic(folder / bert.CONFIG, json.dumps(values, indent=2, default=str) + "\n")


def _public_name(folder: Path) -> str:
    """By which name others know the BERT of a model folder."""
    name: str = _json(folder / CONFIG)["model_cfg"]["text_cfg"]["hf_model_name"]
    if (folder / bert.CONFIG).is_file():
        return str(_json(folder / bert.CONFIG).get("_name_or_path") or name)
    return name


def for_hub(folder: Path) -> dict[str, Any]:
    """The ``open_clip_config.json`` under which a model folder can be put on the Hugging Face hub.

    It names the BERT by its public name in place of this machine's path; whoever loads the model then fetches the
    BERT's config.json from there, as with the released BiomedCLIP, whose configuration has these very keys.
    """
    config = _json(find(folder) / CONFIG)
    text_cfg = dict(config["model_cfg"]["text_cfg"])
    if "hf_model_name" not in text_cfg:
        return config
    text_cfg.pop("hf_model_pretrained", None)
    name = _public_name(find(folder))
    text_cfg |= {"hf_model_name": name, "hf_tokenizer_name": name}
    return {**config, "model_cfg": {**config["model_cfg"], "text_cfg": text_cfg}}


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
