"""open_clip's own models: a name of its list with a set of pretrained weights, by tag or as a checkpoint's file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import open_clip

from biomedray.artifacts import fingerprint
from biomedray.errors import UserError
from biomedray.evaluate.adapters import common
from biomedray.model.encoder import Encoder
from biomedray.model.weights import OpenedModel


def load(spec: str, device: str = "cpu") -> Encoder:
    """``NAME/PRETRAINED``: as ``open_clip.create_model_and_transforms(NAME, pretrained=PRETRAINED)`` makes it.

    Raises:
        UserError: open_clip has no such model or weights, they belong to another model or can't be fetched.
    """
    name, _, pretrained = spec.partition("/")
    _check(name, pretrained)
    weights = _weights(name, pretrained)
    try:
        clip = open_clip.create_model(name, pretrained=_as_given(pretrained), device=device, weights_only=True)
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # noqa: BLE001  # whatever open_clip, torch and the hub's client find wrong
        raise UserError(f"open_clip:{spec}: cannot be loaded: {common.line(error)}") from None
    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": dict(clip.visual.preprocess_cfg)}
    identity = common.identity("open_clip", [weights], name, fingerprint(config))
    return Encoder(OpenedModel(clip.eval(), config, tokenizer, identity), _short(name, pretrained), device)


def _check(name: str, pretrained: str) -> None:
    known = open_clip.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, 3) or ["ViT-B-32"]
        raise UserError(f"open_clip:{name}: open_clip has no model of this name; nearest: {', '.join(near)}")
    if pretrained and (Path(pretrained).is_file() or open_clip.is_pretrained_cfg(name, pretrained)):
        return
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
    what = f"'{pretrained}' is neither a file nor a set of weights that open_clip knows" if pretrained else "name the weights"
    raise UserError(f"open_clip:{name}/{pretrained}: {what}; it knows {tags} for {name}")


def _weights(name: str, pretrained: str) -> Path:
    """The file with the weights, fetched if need be."""
    if Path(pretrained).is_file():
        return Path(pretrained)
    try:
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, pretrained)))
    except Exception as error:  # noqa: BLE001  # the download's errors are of many kinds
        hint = f"give a file: open_clip:{name}/FILE"
        raise UserError(f"open_clip:{name}/{pretrained}: cannot be fetched ({common.line(error)}); {hint}") from None


def _as_given(pretrained: str) -> Any:
    return str(Path(pretrained).resolve()) if Path(pretrained).is_file() else pretrained


def _short(name: str, pretrained: str) -> str:
    return f"{name}-{Path(pretrained).stem}"
