"""What the benchmarks of serving share: BiomedCLIP's shapes with random weights, and captions and pictures of real packages.

Speed does not depend on what the weights say. Captions and pictures come from the packages of PMC where they are there,
else captions are generated with a log-normal length (median 40 words) and pictures are drawn.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from _measure import REAL_PACKAGES

VIT = "vit_base_patch16_224"
_VOCABULARY = 30522
_WORDS = ("lesion", "of", "the", "left", "lobe", "in", "patients", "with", "acute", "renal", "failure", "and", "fibrosis")


def captions(count: int) -> list[str]:
    """So many captions of figures, real ones if there are any, in a fixed order."""
    found = list(_real_captions())
    if not found:
        draw = random.Random(0)
        found = [" ".join(draw.choices(_WORDS, k=max(3, int(draw.lognormvariate(3.7, 0.7))))) for _ in range(count)]
    random.Random(0).shuffle(found)
    return (found * (count // len(found) + 1))[:count]


def pictures(count: int) -> list[bytes]:
    """So many JPEG files of figures, real ones if there are any."""
    found: list[bytes] = []
    for path in _packages():
        with tarfile.open(path) as archive:
            names = sorted(name for name in archive.getnames() if name.endswith(".jpg"))
            found += [archive.extractfile(name).read() for name in names[:4]]  # type: ignore[union-attr]  # they are files
        if len(found) >= count:
            break
    return (found or [_drawn(number) for number in range(32)])[:count]


def encoder(precision: str = "float32") -> Any:
    """An Encoder of ``opened``."""
    from biomedray.model.encoder import Encoder

    made = Encoder(opened(), "random", "cpu")
    made.compute_in(precision)
    return made


def opened(layers: int = 12) -> Any:
    """A model of BiomedCLIP's shapes: ViT-B/16 at 224 pixels, BERT-base with 256 tokens, random weights."""
    with tempfile.TemporaryDirectory() as name:
        return _opened(Path(name), layers)


def _opened(folder: Path, layers: int) -> Any:
    import torch
    from open_clip.tokenizer import HFTokenizer
    from transformers import BertConfig

    from biomedray.model import towers
    from biomedray.model.tokenizer import make_vocabulary
    from biomedray.model.weights import OpenedModel

    torch.manual_seed(0)
    make_vocabulary(captions(2000), _VOCABULARY, folder)
    config = BertConfig(vocab_size=_VOCABULARY, num_hidden_layers=layers)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    text = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_proj_type": "mlp", "context_length": 256}
    text["hf_pooler_type"] = "cls_last_hidden_state_pooler"
    vision = {"timm_model_name": VIT, "timm_pool": "", "timm_proj": "linear", "image_size": 224}
    model_cfg = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}
    clip = towers.build(model_cfg, folder).eval()
    return OpenedModel(clip, {"model_cfg": model_cfg}, HFTokenizer(str(folder), context_length=256), "random")


def write_model(folder: Path) -> None:
    """Such a model as an artifact that ``biomedray serve`` takes."""
    from open_clip.transform import PreprocessCfg

    from biomedray.model.weights import export

    with tempfile.TemporaryDirectory() as name:
        made = _opened(Path(name), 12)
        export(folder, made.clip, {**made.config, "preprocess_cfg": asdict(PreprocessCfg(size=224))}, Path(name))


@cache
def _real_captions() -> tuple[str, ...]:
    return tuple(text for path in _packages() for text in _captions_of(path))


def _packages() -> list[Path]:
    return sorted(REAL_PACKAGES.glob("*.tar.gz")) if REAL_PACKAGES.is_dir() else []


def _captions_of(path: Path) -> list[str]:
    from lxml import etree

    with tarfile.open(path) as archive:
        name = next((name for name in archive.getnames() if name.endswith((".nxml", ".xml"))), None)
        file = archive.extractfile(name) if name else None
        root = etree.parse(file).getroot() if file else None
    if root is None:
        return []
    texts = (" ".join("".join(caption.itertext()).split()) for caption in root.iterfind(".//fig/caption"))
    return [text for text in texts if text]


def _drawn(number: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    noise = Image.frombytes("RGB", (100, 75), random.Random(number).randbytes(100 * 75 * 3))
    noise.resize((800, 600)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
