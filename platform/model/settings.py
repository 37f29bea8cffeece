"""The settings that say which model to start from; light, so that a front door can show them."""

from __future__ import annotations

from pydantic import Field

from biomedray.config import Config


class ModelConfig(Config):
    """Which model to start from."""

    name: str = "tiny"
    """A model configuration of this package (``biomedray.model.config_names()``), or a JSON file in open_clip's form."""
    text_tower: str | None = None
    """Hugging Face BERT: a folder (config.json, tokenizer, weights if any) or a name on the hub. None: new."""
    vocab_size: int = Field(default=4096, ge=64)
    """Most word pieces of a vocabulary made from the captions (for towers that bring no tokenizer)."""
    image_weights: str | None = None
    """Weights of the image trunk: a file in timm's layout, or 'timm' to download the ones timm names. None: new."""
    clip_weights: str | None = None
    """Weights of both towers for this configuration: a file as OpenAI or open_clip write them, or open_clip's name of
    a set that it can download ('openai'). None: new."""
    init_from: str | None = None
    """A whole model to go on from: FOLDER, local-dir:FOLDER, hf-hub:ORG/NAME. It brings its own towers; image_size,
    context_length and patch_dropout may change it."""
    image_size: int | None = Field(default=None, ge=16)
    """Side in pixels that replaces the configuration's own."""
    context_length: int | None = Field(default=None, ge=8)
    """Tokens of a caption that the text tower sees, instead of the configuration's own."""
    patch_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of image patches left out while training (FLIP); only for ViTs."""
    logit_bias: float | None = Field(default=None, le=0)
    """First value of a learnable bias on logits, as SigLIP's loss needs it (-10; the factor then starts at 10). None: no
    bias, but -10 with train.loss=siglip. A model that has one keeps it."""
