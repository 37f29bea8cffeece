"""Folders of models in the hub's layout, with tiny towers and random weights, as other people's code writes them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

TEXTS = ["CT of the liver", "a", "Western blot of β-catenin; naïve cells (A, B), 5 µm.", "liver " * 120]
WORDS = ["liver", "lung", "CT of the heart", "Western blot", "cells and tissue, stained (A)", "µm β naïve"]


def pictures() -> list[bytes]:
    """Wide, high, grey and small ones, as PNG and JPEG."""
    found = []
    for number, (width, height, form) in enumerate([(90, 60, "PNG"), (50, 120, "JPEG"), (224, 224, "PNG"), (20, 30, "JPEG")]):
        noise = np.random.default_rng(number).integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        (image.convert("L") if number == 3 else image).save(buffer, form)
        found.append(buffer.getvalue())
    return found


def bert_tokenizer(folder: Path, longest: int = 512) -> int:
    """vocab.txt, tokenizer.json and their settings; how many words."""
    learner = BertWordPieceTokenizer(lowercase=True)
    learner.train_from_iterator(WORDS * 5, vocab_size=200, min_frequency=1, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    learner.save(str(folder / "tokenizer.json"))
    words = learner.get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)) + "\n")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": longest}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(words)


def clip_tokenizer(folder: Path, longest: int = 77) -> int:
    """vocab.json and merges.txt of byte-level BPE, as CLIP's hub folders have them; how many words."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: number for number, word in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])}
    merges = [("l", "i"), ("li", "v"), ("e", "r</w>"), ("liv", "er</w>")]
    for left, right in merges:
        words[left + right] = len(words)
    start, end = len(words), len(words) + 1
    words |= {"<|startoftext|>": start, "<|endoftext|>": end}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges) + "\n")
    names = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": longest, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    return len(words)


def letters_tokenizer(folder: Path) -> int:
    """A tokenizer.json without a class of its own, one token a letter, as SigLIP's is for this purpose; how many words."""
    letters = [chr(code) for code in range(33, 127)]
    words = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *letters])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    inner.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, "model_input_names": ["input_ids"], **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(words)


def processor(folder: Path, kind: str, size: int, **settings: object) -> None:
    """preprocessor_config.json as the hub's folders have it."""
    values = {"image_processor_type": kind, "do_resize": True, "do_normalize": True, "resample": 3, **settings}
    if kind == "CLIPImageProcessor":
        values |= {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}, "do_center_crop": True}
        values |= {"do_convert_rgb": True}
    else:
        values |= {"size": {"height": size, "width": size}}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def clip(folder: Path, legacy_eos: bool = False) -> Path:
    """As PubMedCLIP and PLIP are kept: a CLIPModel; PLIP's configuration still says that its end mark is number 2."""
    from transformers import CLIPConfig, CLIPModel

    words = clip_tokenizer(folder)
    torch.manual_seed(1)
    text = {**TEXT, "vocab_size": words, "max_position_embeddings": 77, "bos_token_id": words - 2, "pad_token_id": words - 1}
    text["eos_token_id"] = 2 if legacy_eos else words - 1
    config = CLIPConfig(
        text_config=text, vision_config={**VISION, "image_size": 32}, projection_dim=24, logit_scale_init_value=3.0
    )
    CLIPModel(config).save_pretrained(folder)
    mean = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    processor(folder, "CLIPImageProcessor", 32, **mean)
    return folder


def siglip(folder: Path) -> Path:
    """A SiglipModel: texts are always filled up, and nothing is masked."""
    from transformers import SiglipConfig, SiglipModel

    words = letters_tokenizer(folder)
    torch.manual_seed(2)
    text = {**TEXT, "vocab_size": words, "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    SiglipModel(SiglipConfig(text_config=text, vision_config={**VISION, "image_size": 32})).save_pretrained(folder)
    processor(folder, "SiglipImageProcessor", 32, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return folder


def dual(folder: Path) -> Path:
    """A vision-text dual encoder of a ViT and a BERT."""
    from transformers import BertConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel, ViTConfig

    words = bert_tokenizer(folder)
    torch.manual_seed(3)
    text = BertConfig(**TEXT, vocab_size=words, max_position_embeddings=48)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(ViTConfig(**VISION, image_size=32), text, projection_dim=20)
    VisionTextDualEncoderModel(config).save_pretrained(folder)
    processor(folder, "ViTImageProcessor", 32, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return folder


def medclip(folder: Path, tower: str = "swin") -> Path:
    """As MedCLIP's authors keep it, with the names that transformers 4 gave to the weights."""
    from transformers import BertConfig, BertModel, SwinConfig, SwinModel

    words = bert_tokenizer(folder)
    torch.manual_seed(4)
    bert = BertModel(BertConfig(**{**TEXT, "hidden_size": 128}, vocab_size=words, max_position_embeddings=96))
    state = {f"text_model.model.{key}": value for key, value in saved(bert, folder / "bert").items()}
    state["text_model.model.embeddings.position_ids"] = torch.arange(96)[None]
    state["text_model.projection_head.weight"] = torch.randn(16, 128)
    if tower == "swin":
        swin = SwinModel(SwinConfig(embed_dim=16, depths=[1, 2], num_heads=[2, 4], window_size=7))
        state |= {f"vision_model.model.{key}": value for key, value in saved(swin, folder / "swin").items()}
        state["vision_model.projection_head.weight"] = torch.randn(16, 32)
    else:
        from torchvision.models import resnet50

        network = resnet50(weights=None)
        network.fc = torch.nn.Linear(2048, 16, bias=False)
        state |= {f"vision_model.model.{key}": value for key, value in network.state_dict().items()}
    state["logit_scale"] = torch.tensor(2.6593)
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def saved(model: torch.nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """The weights under the names that the hub's files have."""
    from safetensors.torch import load_file

    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def biomedclip(folder: Path) -> Path:
    """As the released BiomedCLIP: a timm ViT and a BERT in open_clip's layout, a .bin, and no config.json of the BERT."""
    import open_clip
    from transformers import BertConfig

    words = bert_tokenizer(folder)
    bert = folder / "bert"
    BertConfig(**{**TEXT, "hidden_size": 128, "num_attention_heads": 2}, vocab_size=words).save_pretrained(bert)
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}
    text = {"hf_model_name": str(bert), "hf_tokenizer_name": str(folder), "hf_proj_type": "mlp"}
    config = {
        "model_cfg": {
            "embed_dim": 32,
            "vision_cfg": {**vision, "image_size": 224},
            "text_cfg": {**text, "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 64},
        },
        "preprocess_cfg": {"mean": [0.48, 0.45, 0.4], "std": [0.26, 0.26, 0.27], "interpolation": "bicubic"},
    }
    path = folder / "open_clip_config.json"
    path.write_text(json.dumps(config))
    torch.manual_seed(5)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder
