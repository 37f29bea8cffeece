"""The model configurations that ship with the package: open_clip's own JSON, read by name."""

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

    Raises:
        UserError: no configuration has this name.
    """
    if name not in names():
        raise UserError(f"model '{name}': no such configuration; there are {', '.join(names())}")
    config: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text())
    return config


def bert_base() -> dict[str, Any]:
    """Hugging Face configuration of a BERT-base, the size of PubMedBERT."""
    config: dict[str, Any] = json.loads((_FOLDER / "text" / "bert_base.json").read_text())
    return config
