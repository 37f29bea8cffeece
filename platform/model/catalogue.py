"""The model configurations that ship with the package, and a user's own: open_clip's JSON, read by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from biomedray.errors import UserError

_FOLDER = Path(__file__).parent / "configs"


def names() -> list[str]:
    """Names of all model configurations."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    """``{"model_cfg": ..., "preprocess_cfg": ...}`` as in an ``open_clip_config.json``.

    ``name`` is a configuration of this package or the path of a JSON file in the same form. ``open_clip``
    beside them names the model under which open_clip keeps pretrained weights of this very layout.

    Raises:
        UserError: no configuration has this name, or the file is none.
    """
    if name.endswith(".json"):
        return _own(Path(name))
    if name not in names():
        raise UserError(f"model '{name}': no such configuration; there are {', '.join(names())}, or give a .json file")
    config: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text())
    return config


def _own(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"model '{path}': cannot be read as JSON ({str(error).splitlines()[0]})") from None
    model_cfg = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(model_cfg, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(model_cfg):
        raise UserError(f"model '{path}': not a model configuration; it needs model_cfg with embed_dim, vision_cfg and text_cfg")
    return {"preprocess_cfg": read("clip_vitb16_gpt77")["preprocess_cfg"], **config}


def bert_base() -> dict[str, Any]:
    """Hugging Face configuration of a BERT-base, the size of PubMedBERT."""
    config: dict[str, Any] = json.loads((_FOLDER / "text" / "bert_base.json").read_text())
    return config
