"""Weights that a new model starts from: of an image trunk, of a BERT, or of a whole CLIP as OpenAI and open_clip write them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from biomedray.errors import UserError
from biomedray.model import catalogue
from biomedray.model.settings import ModelConfig

_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI's archives keep among the weights
_TIMM = "timm"

State = dict[str, torch.Tensor]


def check(config: ModelConfig) -> None:
    """Refuse weights that are not there.

    Raises:
        UserError: a file is missing, or two settings ask for the same weights.
    """
    if config.image_weights not in (None, _TIMM) and not Path(str(config.image_weights)).is_file():
        raise UserError(f"model.image_weights {config.image_weights}: no such file")
    if config.clip_weights is None:
        return
    if config.text_tower is not None or config.image_weights is not None:
        raise UserError("model.clip_weights: brings both towers; leave out model.text_tower and model.image_weights")
    if not Path(config.clip_weights).is_file():
        _tag(config)


def load(config: ModelConfig, clip: nn.Module, trunk_name: str) -> None:
    """Put the weights that the settings name into a new model.

    Raises:
        UserError: they can't be had, or belong to another model.
    """
    model: Any = clip
    if config.clip_weights is not None:
        load_clip(clip, _clip_file(config), f"model.clip_weights {config.clip_weights}")
    if config.text_tower is not None:
        folder = Path(config.text_tower)
        if not folder.is_dir() or has_bert_weights(folder):
            load_bert(clip, config.text_tower)
    if config.image_weights is not None:
        _load_trunk(model.visual.trunk, config.image_weights, trunk_name)


def load_clip(clip: nn.Module, path: Path, what: str) -> None:
    """Copy a whole CLIP's weights: OpenAI's TorchScript archive, open_clip's .pt, .bin or .safetensors.

    Position tables are resampled where the model has another image size or context.

    Raises:
        UserError: the file can't be read or belongs to another model.
    """
    from open_clip.model import convert_to_custom_text_state_dict

    put(clip, resized(convert_to_custom_text_state_dict(_read(path, what)), clip), what)


def resized(state: State, clip: nn.Module) -> State:
    """A state whose position tables, of image patches and of tokens, are resampled to those of ``clip`` where they differ."""
    from open_clip.model import resize_pos_embed

    state = dict(state)
    resize_pos_embed(state, clip)
    wanted = clip.state_dict()
    for name, resample in (("visual.trunk.pos_embed", _patches), ("text.positional_embedding", _positions)):
        if name in state and name in wanted and state[name].shape != wanted[name].shape:
            state[name] = resample(state[name], wanted[name].shape)
    return state


def _patches(table: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """[1, 1 + n * n, D] -> [1, 1 + m * m, D], as timm does."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    side = math.isqrt(shape[1] - 1)
    resampled: torch.Tensor = resample_abs_pos_embed(table, [side, side], num_prefix_tokens=1)
    return resampled


def _positions(table: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """[L, D] -> [K, D]: the first K when cut; positions beyond those that were learned are interpolated, as open_clip does."""
    if shape[0] <= len(table):
        return table[: shape[0]]
    longer = nn.functional.interpolate(table.T[None], size=shape[0], mode="linear", align_corners=False)
    return longer[0].T.contiguous()


def put(clip: nn.Module, state: State, what: str) -> None:
    """Load a state in full; the line of a misfit names the first tensor that doesn't fit.

    Raises:
        UserError: tensors are missing, left over or of another shape.
    """
    wanted = clip.state_dict()
    for name, value in wanted.items():
        if name not in state:
            raise UserError(f"{what}: of another model: it has no {name}; choose the model.name that it belongs to")
        if state[name].shape != value.shape:
            shapes = f"{name} is {list(state[name].shape)}, but {list(value.shape)} is wanted"
            raise UserError(f"{what}: of another model: {shapes}; choose the model.name that it belongs to")
    if extra := sorted(set(state) - set(wanted)):
        raise UserError(f"{what}: of another model: it has {extra[0]}, which this one lacks; choose the model.name it belongs to")
    clip.load_state_dict(state)


def _read(path: Path, what: str) -> State:
    from open_clip.factory import load_state_dict

    try:
        state = _archive(path) if _is_archive(path) else load_state_dict(str(path))
        found = {key: value.float() for key, value in state.items() if key not in _NOT_WEIGHTS}
    except Exception as error:  # noqa: BLE001  # torch, safetensors and pickle raise many kinds on what is no weights file
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{what}: cannot be read as weights ({line})") from None
    if "logit_scale" not in found:
        raise UserError(f"{what}: not the weights of a CLIP (no logit_scale)")
    return found | {"logit_scale": found["logit_scale"].reshape(())}


def _is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive, as OpenAI's are: a zip that holds code."""
    import zipfile

    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any(name.split("/", 1)[-1].startswith("code/") for name in file.namelist())


def _archive(path: Path) -> State:
    state: State = torch.jit.load(str(path), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]  # torch's own
    return state


def _tag(config: ModelConfig) -> dict[str, Any]:
    """What open_clip knows of a set of weights by its name."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    name = catalogue.read(config.name).get("open_clip")
    known = list_pretrained_tags_by_model(name) if name else []
    found: dict[str, Any] = get_pretrained_cfg(name, str(config.clip_weights)) if name else {}
    if not found:
        there = f"; open_clip can download {', '.join(known)}" if known else f"; open_clip has none for {config.name}"
        raise UserError(f"model.clip_weights {config.clip_weights}: no such file{there}")
    return found


def _clip_file(config: ModelConfig) -> Path:
    from open_clip.pretrained import download_pretrained

    if Path(str(config.clip_weights)).is_file():
        return Path(str(config.clip_weights))
    try:
        return Path(download_pretrained(_tag(config)))
    except Exception as error:  # noqa: BLE001  # the download's errors are of many kinds
        line = (str(error) or type(error).__name__).splitlines()[0]
        hint = "give a file if there is no network"
        raise UserError(f"model.clip_weights {config.clip_weights}: cannot be fetched ({line}); {hint}") from None


def load_bert(clip: nn.Module, name: str) -> None:
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


def has_bert_weights(folder: Path) -> bool:
    """Whether a Hugging Face model folder holds weights beside its configuration."""
    return any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))


def _load_trunk(trunk: nn.Module, source: str, name: str) -> None:
    import timm
    from timm.models import load_checkpoint

    missing: list[str] = []
    try:
        if source == _TIMM:
            trunk.load_state_dict(timm.create_model(name, pretrained=True, num_classes=0).state_dict())
        else:
            # Not strict, because such files hold a classifier too; what the trunk needs must be there all the same.
            missing = load_checkpoint(trunk, source, strict=False).missing_keys
    except Exception as error:  # noqa: BLE001  # download and file errors of many kinds
        raise UserError(f"model.image_weights {source}: {str(error).splitlines()[0]}") from None
    if missing:
        raise UserError(f"model.image_weights {source}: not the weights of {name} (no {missing[0]})")
