"""MedCLIP (Wang et al., EMNLP 2022) from the folder that its authors distribute, without its package.

    pytorch_model.bin   vision_model.model.* (a Swin of transformers, or torchvision's ResNet-50)
                        vision_model.projection_head.weight (Swin; the ResNet projects by its fc)
                        text_model.model.* (BioClinicalBERT), text_model.projection_head.weight, logit_scale
    tokenizer.json or vocab.txt of BioClinicalBERT beside it (the authors fetch it from the hub)

Sizes are read off the weights. Text: mean over its tokens of the hidden states 1, 2 and last, then the projection; at most 77
tokens. Picture: grey, padded to a black square, 224 pixels, one mean and one deviation.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from biomedray.errors import UserError
from biomedray.evaluate.adapters import common

WEIGHTS = "pytorch_model.bin"
CONTEXT = 77
SIZE = 224
MEAN, DEVIATION = 0.5862785803043838, 0.27950088968644304
_TOKENIZER = ("tokenizer.json", "vocab.txt")
_TEXT_STATES = (1, 2, -1)
_BERT_HEAD = 64
_VISION, _TEXT = "vision_model.model.", "text_model.model."

State = dict[str, torch.Tensor]


def load(spec: str, device: str = "cpu") -> common.Adapted:
    """The folder of a MedCLIP, with either of its two image towers.

    Raises:
        UserError: files are missing or are not MedCLIP's.
    """
    import transformers

    folder = Path(spec)
    state = _state(folder)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, model_max_length=CONTEXT)
        vision = _vision(state).to(device).eval()
        bert, projection = (part.to(device).eval() for part in _text(state))
    except Exception as error:  # noqa: BLE001  # whatever transformers and torch find wrong with the files
        raise UserError(f"{folder}: not a MedCLIP that can be loaded: {common.line(error)}") from None

    def texts(batch: list[str]) -> torch.Tensor:
        inputs = tokenizer(batch, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt").to(device)
        mask = inputs["attention_mask"]
        found = bert(inputs["input_ids"], mask, output_hidden_states=True).hidden_states
        states = torch.stack([found[number] for number in _TEXT_STATES]).mean(dim=0)
        # Its own code averages over the padding too, so that a text depends on its company; alone it has no padding.
        mean = (states * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        pooled: torch.Tensor = projection(mean)
        return pooled

    files = [folder / name for name in (WEIGHTS, *_TOKENIZER) if (folder / name).is_file()]
    parts = common.Parts(
        name=folder.resolve().name,
        fingerprint=common.identity("medclip", files),
        logit_scale=float(state["logit_scale"].float().exp()),
        context_length=CONTEXT,
        transform=transform,
        images=vision,
        texts=texts,
    )
    return common.Adapted(parts, device)


def transform(image: Image.Image) -> torch.Tensor:
    """RGB picture -> [3, 224, 224] float32."""
    side = max(SIZE, *image.size)
    square = Image.new("L", (side, side), 0)
    square.paste(image.convert("L"), ((side - image.width) // 2, (side - image.height) // 2))
    grey = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32) / 255
    return torch.from_numpy((grey - np.float32(MEAN)) / np.float32(DEVIATION)).expand(3, -1, -1).contiguous()


def _state(folder: Path) -> State:
    if not folder.is_dir():
        raise UserError(f"medclip:{folder}: no such folder")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: not a MedCLIP folder (no {WEIGHTS})")
    if not any((folder / name).is_file() for name in _TOKENIZER):
        raise UserError(f"{folder}: a MedCLIP folder without tokenizer; put the vocab.txt of BioClinicalBERT into it")
    try:
        state: State = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
        wanted = ("logit_scale", "text_model.projection_head.weight", f"{_TEXT}embeddings.word_embeddings.weight")
        missing = [name for name in wanted if name not in state]
    except Exception as error:  # noqa: BLE001  # torch and pickle raise many kinds on what is no weights file
        raise UserError(f"{folder / WEIGHTS}: cannot be read as weights ({common.line(error)})") from None
    if missing:
        raise UserError(f"{folder / WEIGHTS}: not the weights of a MedCLIP (no {missing[0]})")
    return state


def _under(state: State, prefix: str) -> State:
    """What lies under a prefix; numbers that transformers has since stopped to keep among the weights are left out."""
    gone = ("position_ids", "relative_position_index")
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix) and not key.endswith(gone)}


def _linear(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.load_state_dict({"weight": weight})
    return layer


def _count(state: State, prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


# ---- towers


def _text(state: State) -> tuple[nn.Module, nn.Module]:
    from transformers import BertConfig, BertModel

    own = _under(state, _TEXT)
    words, width = own["embeddings.word_embeddings.weight"].shape
    config = BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=_count(own, "encoder.layer."),
        num_attention_heads=width // _BERT_HEAD,
        intermediate_size=own["encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=own["embeddings.position_embeddings.weight"].shape[0],
        type_vocab_size=own["embeddings.token_type_embeddings.weight"].shape[0],
    )
    return _filled(BertModel, config, own), _linear(state["text_model.projection_head.weight"])


def _vision(state: State) -> nn.Module:
    own = _under(state, _VISION)
    if "fc.weight" in own:
        return _resnet(own)
    swin = _swin(own)
    projection = _linear(state["vision_model.projection_head.weight"])
    return _Pooled(swin, projection)


class _Pooled(nn.Module):
    """A tower of transformers, pooled and projected."""

    def __init__(self, tower: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.tower, self.projection = tower, projection

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, 3, 224, 224] -> [n, D]."""
        found: torch.Tensor = self.projection(self.tower(pixel_values=pixels).pooler_output)
        return found


def _resnet(own: State) -> nn.Module:
    from torchvision.models import resnet50

    with torch.device("meta"):  # no time is lost with weights that are replaced at once
        tower: nn.Module = resnet50(weights=None)
        tower.fc = nn.Linear(own["fc.weight"].shape[1], own["fc.weight"].shape[0], bias=False)
    tower.load_state_dict(own, assign=True)
    return tower


def _swin(own: State) -> nn.Module:
    from transformers import SwinConfig, SwinModel

    stages = range(_count(own, "encoder.layers."))
    tables = [own[f"encoder.layers.{stage}.blocks.0.attention.self.relative_position_bias_table"] for stage in stages]
    patches: Any = own["embeddings.patch_embeddings.projection.weight"].shape
    config = SwinConfig(
        image_size=SIZE,
        patch_size=patches[2],
        embed_dim=patches[0],
        depths=[_count(own, f"encoder.layers.{stage}.blocks.") for stage in stages],
        num_heads=[table.shape[1] for table in tables],
        window_size=(math.isqrt(tables[0].shape[0]) + 1) // 2,
    )
    return _filled(SwinModel, config, own)


def _filled(kind: Any, config: Any, own: State) -> nn.Module:
    """A tower with these weights, whose names are those of transformers 4: its own loader knows what has been renamed since."""
    with common.quiet():
        tower, found = kind.from_pretrained(None, config=config, state_dict=own, output_loading_info=True)
    if missing := sorted(name for name in found["missing_keys"] if not name.startswith("pooler.dense")):
        raise ValueError(f"no {missing[0]}")
    built: nn.Module = tower
    return built
