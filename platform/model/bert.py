"""The BERT of a model folder: its Hugging Face configuration from config.json, from the hub's cache, or from the weights' shapes.

The released BiomedCLIP has no config.json in its folder: open_clip asks the hub for that of ``hf_model_name``. The
shapes of the weights say all that is needed to build the tower; what they can't say is as in every BERT (64 values a
head, GELU, dropout 0.1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biomedray.errors import UserError
from biomedray.model import catalogue

CONFIG = "config.json"
_PREFIX = "text.transformer."
_HEAD_WIDTH = 64

Shapes = Mapping[str, tuple[int, ...]]


def config_of(folder: Path, name: str, weights: Path) -> dict[str, Any]:
    """Configuration of the BERT in a model folder; ``name`` is its ``hf_model_name``, ``weights`` the model's file.

    Raises:
        UserError: there is no config.json and the weights are no BERT's.
    """
    if (folder / CONFIG).is_file():
        found: dict[str, Any] = json.loads((folder / CONFIG).read_text())
        return found
    derived = _from_shapes(shapes_of(weights), folder)
    return {**derived, **_cached(name, derived), "_name_or_path": name}


def shapes_of(weights: Path) -> Shapes:
    """Shape of each tensor in a weights file; the tensors themselves stay on disk."""
    if weights.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(weights, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  # not a dict
    import torch

    state = torch.load(weights, map_location="cpu", weights_only=True, mmap=True)
    return {key: tuple(value.shape) for key, value in state.get("state_dict", state).items()}


def _from_shapes(shapes: Shapes, folder: Path) -> dict[str, Any]:
    own = {key.removeprefix(_PREFIX): shape for key, shape in shapes.items() if key.startswith(_PREFIX)}
    try:
        words, hidden = own["embeddings.word_embeddings.weight"]
        values = {
            "vocab_size": words,
            "hidden_size": hidden,
            "max_position_embeddings": own["embeddings.position_embeddings.weight"][0],
            "type_vocab_size": own["embeddings.token_type_embeddings.weight"][0],
            "intermediate_size": own["encoder.layer.0.intermediate.dense.weight"][0],
        }
    except KeyError as error:
        raise UserError(f"{folder}: no {CONFIG} of its text tower, and its weights are no BERT's (no {error})") from None
    layers = {key.split(".")[2] for key in own if key.startswith("encoder.layer.")}
    if hidden % _HEAD_WIDTH:
        raise UserError(f"{folder}: no {CONFIG} of its text tower, and {hidden} values don't say how many heads; add the file")
    return {**catalogue.bert_base(), **values, "num_hidden_layers": len(layers), "num_attention_heads": hidden // _HEAD_WIDTH}


def _cached(name: str, derived: dict[str, Any]) -> dict[str, Any]:
    """What the shapes can't say, from a folder of that name or the hub's cache; {} if neither is there or fits."""
    from transformers import AutoConfig

    try:
        found: dict[str, Any] = AutoConfig.from_pretrained(name, local_files_only=True).to_dict()
    except (OSError, ValueError):
        return {}
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings")
    if any(found.get(key) != derived[key] for key in sizes):
        return {}
    return {key: found[key] for key in ("num_attention_heads", "hidden_act", "layer_norm_eps", "pad_token_id") if key in found}
