"""CLIP-likes of transformers from a folder or the hub: CLIP (PubMedCLIP, PLIP), SigLIP, a vision-text dual encoder.

Pictures go through the folder's own image processor and texts through its own tokenizer, as ``AutoProcessor`` would
send them; a SigLIP sees texts filled up to its whole context, as it was trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from biomedray.errors import UserError
from biomedray.evaluate.adapters import common

CONFIG = "config.json"
_PATTERNS = ["*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin"]
_TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
_PADDED = ("siglip", "siglip2")


def is_folder(folder: Path) -> bool:
    """Whether it is a model folder of transformers and not one of open_clip, which may hold a BERT's config.json too."""
    return (folder / CONFIG).is_file() and not (folder / "open_clip_config.json").is_file()


def load(spec: str, device: str = "cpu") -> common.Adapted:
    """A folder in the hub's layout, or ``ORG/NAME`` on the hub.

    Raises:
        UserError: nothing there, another kind of model, files missing, weights that don't fit the configuration.
    """
    folder = Path(spec) if Path(spec).is_dir() else common.fetch(spec, "transformers", _PATTERNS)
    kind = _check(folder)
    model, processor, tokenizer = _open(folder)
    model = model.to(device).eval()
    context = _context(model.config, tokenizer)
    padding = "max_length" if kind in _PADDED else True

    def transform(image: Image.Image) -> torch.Tensor:
        pixels: torch.Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels

    def texts(batch: list[str]) -> torch.Tensor:
        inputs = tokenizer(batch, padding=padding, truncation=True, max_length=context, return_tensors="pt").to(device)
        return _pooled(model.get_text_features(**inputs))

    parts = common.Parts(
        name=spec.rstrip("/").rsplit("/", 1)[-1],
        fingerprint=common.identity("transformers", _files(folder)),
        logit_scale=float(model.logit_scale.detach().float().exp()),
        context_length=context,
        transform=transform,
        images=lambda batch: _pooled(model.get_image_features(pixel_values=batch)),
        texts=texts,
    )
    return common.Adapted(parts, device)


def _check(folder: Path) -> str:
    """The kind of model in a folder that has all it needs."""
    if (folder / "open_clip_config.json").is_file():
        raise UserError(f"{folder}: an open_clip folder; give local-dir:{folder}")
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: not a model folder of transformers (no {CONFIG})")
    try:
        kind = json.loads((folder / CONFIG).read_text()).get("model_type")
    except (ValueError, AttributeError):
        raise UserError(f"{folder / CONFIG}: cannot be read as a JSON object") from None
    for names, what in ((common.WEIGHTS, "weights"), (_TOKENIZER, "a tokenizer"), (_PROCESSOR, "settings of its pictures")):
        if not any((folder / name).is_file() for name in names):
            raise UserError(f"{folder}: a {kind} folder without {what} (no {names[0]})")
    return str(kind)


def _open(folder: Path) -> tuple[Any, Any, Any]:
    import transformers

    try:
        with common.quiet():
            model, found = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
            processor = transformers.AutoImageProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]  # its own
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # noqa: BLE001  # whatever transformers, torch and tokenizers find wrong with the files
        raise UserError(f"{folder}: not a model that transformers can load: {common.line(error)}") from None
    if not all(hasattr(model, name) for name in ("get_image_features", "get_text_features", "logit_scale")):
        raise UserError(f"{folder}: a {model.config.model_type}, not a model of pictures and texts such as CLIP")
    # transformers fills up what is missing with random numbers and only warns.
    if missing := sorted(name for name in found["missing_keys"] if not name.endswith("position_ids")):
        raise UserError(f"{folder}: its weights are not those of its {CONFIG} (no {missing[0]})")
    if mismatched := sorted(str(entry[0]) for entry in found.get("mismatched_keys", ())):
        raise UserError(f"{folder}: its weights are not those of its {CONFIG} ({mismatched[0]} has another shape)")
    return model, processor, tokenizer


def _context(config: Any, tokenizer: Any) -> int:
    """What the text tower has positions for, or less if the tokenizer says so (unset, it says 10 ** 30)."""
    positions = int(config.text_config.max_position_embeddings)
    if "roberta" in str(config.text_config.model_type):
        positions -= int(config.text_config.pad_token_id) + 1  # its positions begin after the padding's number
    return min(positions, int(tokenizer.model_max_length))


def _pooled(found: Any) -> torch.Tensor:
    """Version 4 of transformers gives the features, 5 an output that holds them."""
    features: torch.Tensor = found if isinstance(found, torch.Tensor) else found.pooler_output
    return features


def _files(folder: Path) -> list[Path]:
    """What decides the vectors: a snapshot may hold weights in two formats, of which the first counts."""
    weights = next(name for name in common.WEIGHTS if (folder / name).is_file())
    if weights.endswith(".index.json"):
        shards = set(json.loads((folder / weights).read_text())["weight_map"].values())
        files = [folder / name for name in shards]
    else:
        files = [folder / weights]
    names = (CONFIG, "tokenizer_config.json", "merges.txt", *_TOKENIZER, *_PROCESSOR)
    return files + [folder / name for name in names if (folder / name).is_file()]
