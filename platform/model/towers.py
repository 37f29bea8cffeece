"""New models: a configuration, a text tower and captions become a model folder with fresh weights.

text_tower=None  a vocabulary from the captions; the configuration's text tower, new
text_tower=DIR   a Hugging Face BERT folder: config.json + tokenizer [+ weights]
text_tower=NAME  the same from the Hugging Face hub
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from biomedray.artifacts import write_atomic
from biomedray.errors import UserError
from biomedray.model import catalogue, weights
from biomedray.model.settings import ModelConfig
from biomedray.model.tokenizer import make_vocabulary

_HF_HEAD = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}


def check(config: ModelConfig) -> None:
    """Refuse, before any work is done, a model that can't be made.

    Raises:
        UserError: unknown configuration, missing or incomplete text tower, size without a trunk.
    """
    if config.init_from is not None:
        weights.find(config.init_from)
        return
    model_cfg = _model_cfg(config)
    if config.text_tower is not None:
        _check_tower(config.text_tower)
    if config.image_weights not in (None, "timm") and not Path(str(config.image_weights)).is_file():
        raise UserError(f"model.image_weights {config.image_weights}: no such file")
    context = model_cfg["text_cfg"]["context_length"]
    if "hf_model_name" in model_cfg["text_cfg"] and context > _bert_config(config)["max_position_embeddings"]:
        raise UserError(f"model.context_length {context}: the text tower has fewer positions")


def initialise(config: ModelConfig, captions: Iterable[str], folder: Path, seed: int) -> None:
    """Write a new model folder at ``folder``; the same input and seed give the same bytes.

    Raises:
        UserError: as ``check``, or the parts do not fit together.
    """
    check(config)
    if config.init_from is not None:
        opened = weights.open_folder(config.init_from)
        weights.export(folder, opened.clip, opened.config, weights.find(config.init_from))
        return
    with tempfile.TemporaryDirectory(prefix="biomedray-text-") as name:
        text = Path(name)
        model_cfg = _model_cfg(config)
        _text_files(config, model_cfg["text_cfg"], captions, text)
        torch.manual_seed(seed)
        clip = build(model_cfg, text)
        _pretrained(config, clip)
        weights.export(
            folder, clip, {"model_cfg": model_cfg, "preprocess_cfg": catalogue.read(config.name)["preprocess_cfg"]}, text
        )


def build(model_cfg: dict[str, Any], text_files: Path | None = None, device: str = "cpu") -> nn.Module:
    """A model with new weights; a BERT text tower takes its size from ``text_files/config.json``."""
    text_cfg = dict(model_cfg["text_cfg"])
    if "hf_model_name" in text_cfg:
        text_cfg |= {"hf_model_pretrained": False, "hf_model_name": str(text_files)}
    with torch.device(device):
        # custom_text only tells open_clip's factory to build this class
        arguments = {key: value for key, value in model_cfg.items() if key != "custom_text"}
        model: nn.Module = open_clip.CustomTextCLIP(**{**arguments, "text_cfg": text_cfg})
    return model


def _model_cfg(config: ModelConfig) -> dict[str, Any]:
    model_cfg = catalogue.read(config.name)["model_cfg"]
    text_cfg, vision_cfg = model_cfg["text_cfg"], model_cfg["vision_cfg"]
    if config.text_tower is not None:
        name = config.text_tower
        text_cfg = {"hf_model_name": name, "hf_tokenizer_name": name, **_HF_HEAD, "context_length": text_cfg["context_length"]}
    if config.context_length is not None:
        text_cfg = {**text_cfg, "context_length": config.context_length}
    if config.patch_dropout:
        vision_cfg = {**vision_cfg, "patch_dropout": config.patch_dropout}
    return {**model_cfg, "text_cfg": text_cfg, "vision_cfg": _sized(vision_cfg, config.image_size)}


def _sized(vision_cfg: dict[str, Any], size: int | None) -> dict[str, Any]:
    """Another input size: a ViT of timm exists per size, and open_clip can't resize one on loading."""
    if size is None or size == vision_cfg["image_size"]:
        return vision_cfg
    import timm

    trunk = vision_cfg["timm_model_name"]
    if trunk.startswith("vit_"):
        trunk = trunk.removesuffix("_224") + f"_{size}"
        if not timm.list_models(trunk):
            raise UserError(f"model.image_size {size}: timm has no {trunk}; ViTs come at 224 and 384 pixels")
    return {**vision_cfg, "timm_model_name": trunk, "image_size": size}


def _check_tower(name: str) -> None:
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
            raise UserError(f"model.text_tower {name}: no such folder (nor a name on the Hugging Face hub)")
        return
    if not (folder / weights.BERT_CONFIG).is_file():
        raise UserError(f"model.text_tower {name}: no {weights.BERT_CONFIG} in it")
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt")):
        raise UserError(f"model.text_tower {name}: no tokenizer in it (tokenizer.json or vocab.txt)")


def _bert_config(config: ModelConfig) -> dict[str, Any]:
    if config.text_tower is None:
        return catalogue.bert_base()
    from transformers import AutoConfig

    try:
        values: dict[str, Any] = AutoConfig.from_pretrained(config.text_tower).to_dict()
    except Exception as error:  # noqa: BLE001  # transformers and the hub client raise many kinds; the first line says which
        line = (str(error) or type(error).__name__).splitlines()[0]
        hint = "give a local folder if there is no network"
        raise UserError(f"model.text_tower {config.text_tower}: cannot be read ({line}); {hint}") from None
    if not values.get("max_position_embeddings") or values.get("model_type") != "bert":
        raise UserError(f"model.text_tower {config.text_tower}: a {values.get('model_type')} model, but a bert is wanted")
    return values


def _text_files(config: ModelConfig, text_cfg: dict[str, Any], captions: Iterable[str], folder: Path) -> None:
    """Put the tokenizer, and a BERT's config.json, into ``folder``; set what depends on them."""
    if config.text_tower is not None:
        _save_tower_text(config.text_tower, folder)
        write_atomic(folder / weights.BERT_CONFIG, json.dumps(_bert_config(config), indent=2, default=str) + "\n")
        return
    size = make_vocabulary(captions, config.vocab_size, folder)
    if "hf_model_name" in text_cfg:
        write_atomic(folder / weights.BERT_CONFIG, json.dumps({**catalogue.bert_base(), "vocab_size": size}, indent=2) + "\n")
    else:
        text_cfg["vocab_size"] = size


def _save_tower_text(name: str, folder: Path) -> None:
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(name).save_pretrained(folder)
    except Exception as error:  # noqa: BLE001  # as in _bert_config
        raise UserError(f"model.text_tower {name}: its tokenizer cannot be read ({str(error).splitlines()[0]})") from None


def _pretrained(config: ModelConfig, clip: nn.Module) -> None:
    model: Any = clip
    if config.text_tower is not None:
        folder = Path(config.text_tower)
        if not folder.is_dir() or weights.has_weights(folder):
            weights.load_text_weights(clip, config.text_tower)
    if config.image_weights is not None:
        _load_trunk(model.visual.trunk, config)


def _load_trunk(trunk: nn.Module, config: ModelConfig) -> None:
    import timm
    from timm.models import load_checkpoint

    name = _model_cfg(config)["vision_cfg"]["timm_model_name"]
    try:
        if config.image_weights == "timm":
            trunk.load_state_dict(timm.create_model(name, pretrained=True, num_classes=0).state_dict())
        else:
            load_checkpoint(trunk, str(config.image_weights), strict=False)
    except Exception as error:  # noqa: BLE001  # download and file errors of many kinds
        raise UserError(f"model.image_weights {config.image_weights}: {str(error).splitlines()[0]}") from None
