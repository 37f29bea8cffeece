"""New models: a configuration, a text tower and captions become a model folder with fresh or pretrained weights.

text_tower=DIR   a Hugging Face BERT folder: config.json + tokenizer [+ weights]; NAME: the same from the hub
text_tower=None  the configuration's text tower: CLIP's own BPE where it is OpenAI's, else a vocabulary from the captions
init_from=MODEL  a whole model, with another image size, context or patch dropout if the settings say so
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from biomedray.artifacts import write_atomic
from biomedray.errors import UserError
from biomedray.model import bert, catalogue, pretrained, weights
from biomedray.model.settings import ModelConfig
from biomedray.model.tokenizer import make_vocabulary

_HF_HEAD = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}

_SIGLIP_SCALE = math.log(10)  # section 3.3 of the SigLIP paper


def check(config: ModelConfig) -> None:
    """Refuse, before any work is done, a model that can't be made.

    Raises:
        UserError: unknown configuration, missing or incomplete text tower or weights, size without a trunk.
    """
    if config.init_from is not None:
        _check_going_on(config)
        return
    model_cfg = model_cfg_of(config)
    if config.text_tower is not None:
        _check_tower(config.text_tower)
    pretrained.check(config)
    if "hf_model_name" in model_cfg["text_cfg"]:
        _check_positions(model_cfg["text_cfg"]["context_length"], _bert_config(config)["max_position_embeddings"])


def _check_going_on(config: ModelConfig) -> None:
    weights.find(str(config.init_from))
    given = [name for name in ("text_tower", "image_weights", "clip_weights") if getattr(config, name) is not None]
    # The presets name towers; what starts from a whole model has no use for them, so only clip_weights is a contradiction.
    if "clip_weights" in given:
        raise UserError("model.clip_weights: model.init_from brings all weights; give only one of them")


def _check_positions(context: int, positions: int) -> None:
    if context > positions:
        raise UserError(
            f"model.context_length {context}: the text tower has only {positions} positions; set it to {positions} or less"
        )


def initialise(config: ModelConfig, captions: Iterable[str], folder: Path, seed: int) -> None:
    """Write a new model folder at ``folder``; the same input and seed give the same bytes.

    Raises:
        UserError: as ``check``, or the parts do not fit together.
    """
    check(config)
    if config.init_from is not None:
        _go_on(config, folder, seed)
        return
    with tempfile.TemporaryDirectory(prefix="biomedray-text-") as name:
        text = Path(name)
        model_cfg = model_cfg_of(config)
        _text_files(config, model_cfg["text_cfg"], captions, text)
        torch.manual_seed(seed)
        clip = build(model_cfg, text)
        pretrained.load(config, clip, model_cfg["vision_cfg"].get("timm_model_name", ""))
        preprocess_cfg = catalogue.read(config.name)["preprocess_cfg"]
        weights.export(folder, clip, {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}, text)


def _go_on(config: ModelConfig, folder: Path, seed: int) -> None:
    """A copy of a whole model, its position tables resampled where the settings ask for another size."""
    opened = weights.open_folder(str(config.init_from))
    source = weights.find(str(config.init_from))
    before = opened.config["model_cfg"]
    model_cfg = _changed(before, config)
    if model_cfg == before:
        weights.export(folder, opened.clip, opened.config, source)
        return
    old: Any = opened.clip
    with tempfile.TemporaryDirectory(prefix="biomedray-text-") as name:
        text = Path(name)
        weights.copy_text_files(source, opened.clip, text)
        if (text / bert.CONFIG).is_file():
            _check_positions(model_cfg["text_cfg"]["context_length"], old.text.config.max_position_embeddings)
        torch.manual_seed(seed)
        clip = build(model_cfg, text)
        state = {key: value for key, value in clip.state_dict().items() if key == "logit_bias"} | old.state_dict()
        pretrained.put(clip, pretrained.resized(state, clip), f"model.init_from {config.init_from}")
        weights.export(folder, clip, {**opened.config, "model_cfg": model_cfg}, text)


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


def model_cfg_of(config: ModelConfig) -> dict[str, Any]:
    """The configuration of a model to be made, in open_clip's form.

    Raises:
        UserError: unknown name, or a size that it can't have.
    """
    model_cfg = catalogue.read(config.name)["model_cfg"]
    if config.text_tower is not None:
        name, context = config.text_tower, model_cfg["text_cfg"].get("context_length", 77)
        text_cfg = {"hf_model_name": name, "hf_tokenizer_name": name, **_HF_HEAD, "context_length": context}
        model_cfg = {**model_cfg, "text_cfg": text_cfg}
    return _changed(model_cfg, config)


def _changed(model_cfg: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """A configuration with the sizes that the settings ask for."""
    text_cfg, vision_cfg = dict(model_cfg["text_cfg"]), dict(model_cfg["vision_cfg"])
    if config.context_length is not None:
        text_cfg["context_length"] = config.context_length
    if config.patch_dropout:
        if not _is_vit(vision_cfg):
            raise UserError(f"model.patch_dropout {config.patch_dropout}: only a ViT has patches to leave out; set it to 0")
        vision_cfg["patch_dropout"] = config.patch_dropout
    changed = {**model_cfg, "text_cfg": text_cfg, "vision_cfg": _sized(vision_cfg, config.image_size)}
    if config.logit_bias is not None and "init_logit_bias" not in model_cfg:
        changed |= {"init_logit_bias": config.logit_bias, "init_logit_scale": _SIGLIP_SCALE}
    return changed


def _is_vit(vision_cfg: dict[str, Any]) -> bool:
    if "timm_model_name" in vision_cfg:
        return "vit" in str(vision_cfg["timm_model_name"])
    return isinstance(vision_cfg.get("layers"), int)


def _sized(vision_cfg: dict[str, Any], size: int | None) -> dict[str, Any]:
    """Another input size: a ViT of timm exists per size, and open_clip can't resize one on loading."""
    if size is None or size == vision_cfg["image_size"]:
        return vision_cfg
    if "timm_model_name" not in vision_cfg:
        step = vision_cfg["patch_size"] or 32  # open_clip's own ViTs and ResNets take any multiple
        if size % step:
            raise UserError(f"model.image_size {size}: not a multiple of {step}; set it to {size - size % step + step}")
        return {**vision_cfg, "image_size": size}
    import timm

    trunk = vision_cfg["timm_model_name"]
    if trunk.startswith("vit_"):
        trunk = re.sub(r"_\d+$", f"_{size}", trunk)
        if not timm.list_models(trunk):
            raise UserError(f"model.image_size {size}: timm has no {trunk}; ViTs come at 224 and 384 pixels")
    return {**vision_cfg, "timm_model_name": trunk, "image_size": size}


def _check_tower(name: str) -> None:
    folder = Path(name)
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith(".") or name.count("/") != 1:
            raise UserError(f"model.text_tower {name}: no such folder (nor a name on the Hugging Face hub)")
        return
    if not (folder / bert.CONFIG).is_file():
        raise UserError(f"model.text_tower {name}: no {bert.CONFIG} in it")
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt")):
        raise UserError(f"model.text_tower {name}: no tokenizer in it (tokenizer.json or vocab.txt)")
    with tempfile.TemporaryDirectory(prefix="biomedray-text-") as scratch:
        _text_files(ModelConfig(text_tower=name), {}, (), Path(scratch))


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
        values = _bert_config(config)
        _save_tower_text(config.text_tower, folder, values["vocab_size"], values.get("pad_token_id", 0))
        # Under its own name, so that a folder for the hub can name the tower as others know it.
        values = {**values, "_name_or_path": config.text_tower}
        write_atomic(folder / bert.CONFIG, json.dumps(values, indent=2, default=str) + "\n")
        return
    if "hf_model_name" not in text_cfg and "hf_tokenizer_name" not in text_cfg:
        return  # open_clip's SimpleTokenizer: CLIP's own BPE, which needs no file
    size = make_vocabulary(captions, config.vocab_size, folder)
    if "hf_model_name" in text_cfg:
        write_atomic(folder / bert.CONFIG, json.dumps({**catalogue.bert_base(), "vocab_size": size}, indent=2) + "\n")
    else:
        text_cfg["vocab_size"] = size


def _save_tower_text(name: str, folder: Path, words: int, pad_id: int) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        tokenizer.save_pretrained(folder)
    except Exception as error:  # noqa: BLE001  # as in _bert_config
        raise UserError(f"model.text_tower {name}: its tokenizer cannot be read ({str(error).splitlines()[0]})") from None
    weights.check_vocabulary(f"model.text_tower {name}", tokenizer, words, pad_id)
