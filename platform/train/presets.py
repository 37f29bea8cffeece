"""Training configurations by name: functions that return a frozen, typed configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, JsonValue

from biomedray.config import Config
from biomedray.errors import UserError
from biomedray.model.settings import ModelConfig

PUBMEDBERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"


# Settings that change speed, memory or what is written, but no result: a run may go on with other values of them.
FREE: dict[str, JsonValue] = {"identity": False}


class DataConfig(Config):
    """How pairs are read and made into batches."""

    crop_scale: tuple[float, float] = (0.9, 1.0)
    """Share of an image's area that a random crop takes (RandomResizedCrop)."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Width over height of a random crop before it is resized to a square."""
    augment_on: Literal["cpu", "device"] = Field(default="cpu", json_schema_extra=FREE)
    """Where crops are computed, the same to the bit. cpu: by the decoding threads. device: they only cut out what a crop
    reaches, so that a picture costs the CPU less, but two to four times the bytes are sent; for a GPU with few CPU cores."""
    crop_relative: bool = False
    """Whether crop_ratio is a factor on the picture's own: right for models that see whole figures squashed to a square
    (``resize_mode`` of the model's preprocess_cfg), where a fixed ratio would cut the outer panels of a wide figure off."""
    window_row_groups: int = Field(default=16, ge=1)
    """Row groups (of some 128 pairs) that are shuffled among each other; twice as many are held in memory."""
    threads: int = Field(default=2, ge=1, json_schema_extra=FREE)
    """Threads of each worker that decode images."""
    prefetch_batches: int = Field(default=4, ge=1, json_schema_extra=FREE)
    """Batches that are prepared ahead."""
    read_threads: int = Field(default=2, ge=1, json_schema_extra=FREE)
    """Threads of each worker that read row groups ahead, from disk or a store."""
    text: Literal["caption", "citance_instead", "citance_after", "panel"] = "caption"
    """caption: the caption alone. citance_instead, citance_after: for ``citance_share`` of the samples, drawn anew each
    epoch, a sentence that cites the figure stands in for the caption, or follows it. panel: rows that have a
    ``subcaption`` and a ``bbox`` give that part of the picture and of the caption."""
    citance_share: float = Field(default=0.3, ge=0, le=1)
    """Share of the samples with citances that show one; see ``text``."""
    broken_images: Literal["stop", "skip"] = "stop"
    """A picture that can't be decoded: stop with its pair_id, or take another row in its place (the same at any
    number of workers) and name it in ``broken.jsonl``."""
    cache_mb: int = Field(default=1024, ge=0, json_schema_extra=FREE)
    """Memory of each worker for reduced images; what fits is decoded once. Changes no result."""
    val_pairs: int = Field(default=10_000, ge=1)
    """Most pairs of the val split that the validation after each epoch looks at."""


class LoopConfig(Config):
    """Optimisation; the defaults are Supplementary Table 9 of the BiomedCLIP paper."""

    epochs: int = Field(default=32, ge=1)
    """Passes over the train split."""
    batch_size: int = Field(default=4096, ge=2)
    """Pairs in a global batch, over all workers."""
    batch_schedule: tuple[tuple[int, int], ...] = ()
    """Changes of the batch size: (from this epoch on, counted from 0; batch size)."""
    lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(default=0.2, ge=0)
    """Not applied to gains, biases and the logit scale."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's momentum terms."""
    eps: float = Field(default=1e-6, gt=0)
    """AdamW's epsilon."""
    warmup_steps: int = Field(default=2000, ge=0)
    """Steps of ``batch_size`` pairs over which the learning rate rises; then it falls as a cosine to 0."""
    grad_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient; None: no limit."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 on a GPU that has it, else fp32."""
    grad_checkpointing: bool | Literal["auto"] = Field(default="auto", json_schema_extra=FREE)
    """Recompute activations in the backward pass: less memory, a third more work. auto: of as many layers as memory asks for."""
    micro_batch: int | None = Field(default=None, ge=1, json_schema_extra=FREE)
    """Pairs that a worker takes through the towers at a time; the gradient is that of the whole batch. None: what fits."""
    memory_gb: float | None = Field(default=None, gt=0, json_schema_extra=FREE)
    """Memory (GiB) of each worker that a step may take, weights and optimiser included. None: most of what is free."""
    loss: Literal["infonce", "siglip"] = "infonce"
    """infonce: cross entropy both ways over the batch, as CLIP. siglip: a yes or no for every picture with every text."""
    loss_tile: int = Field(default=2048, ge=1, json_schema_extra=FREE)
    """Side of the largest matrix of similarities that a worker holds; a larger batch goes by tiles of it."""
    compile: bool = Field(default=False, json_schema_extra=FREE)
    """torch.compile for the layers of both towers: minutes at the start, then faster on a GPU."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Keep an exponential moving average of the weights, of this decay a step. None: no."""
    export_ema: bool = True
    """Where there is such an average, it is what validation sees and what the model folder holds at the end."""
    guard_skips: int = Field(default=10, ge=0)
    """Batches in 1,000 steps that may be left out because loss or gradient is not finite, or the loss leaps; more end the run."""
    guard_spike: float | None = Field(default=4.0, gt=1)
    """A loss this many times its running mean (and 1 more) counts as a leap. None: only what is not finite does."""
    seed: int = 0
    """Decides initial weights, order, crops and dropout."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Stop after the epoch in which this much training time has passed. The learning rate then falls with the
    time if that runs faster than the epochs, so that a slow machine ends well too; None: no limit, and a run
    that repeats exactly."""
    log_every: int = Field(default=10, ge=1, json_schema_extra=FREE)
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: int | None = Field(default=None, ge=1, json_schema_extra=FREE)
    """Pairs between checkpoints within an epoch; None: only after each epoch."""
    keep_checkpoints: int = Field(default=2, ge=1, json_schema_extra=FREE)
    """Newest checkpoints that stay on disk."""
    max_failures: int = Field(default=3, ge=-1, json_schema_extra=FREE)
    """How often Ray replaces workers that died before the run fails; -1: always. Preempted machines don't count."""


class ZeroShotSet(Config):
    """A labelled set of pictures that validation classifies by the names of its classes."""

    folder: str
    """One folder for each class, or any layout that 'biomedray evaluate zeroshot' reads; split val if it has one."""
    classes: dict[str, str] = Field(default_factory=dict)
    """Class (a folder's name) -> what prompts call it; one that is not named here is called as it is."""
    templates: tuple[str, ...] = ("this is an image of {}", "{} presented in image")
    """Prompts with {} for the class, averaged; the paper's Supplementary Table 10."""
    limit: int = Field(default=2000, ge=1)
    """Most pictures of each class that are looked at, in order of name."""


class ValidationConfig(Config):
    """What is looked at while training goes on, and how often; changes nothing of the training."""

    every: int | None = Field(default=None, ge=1)
    """Pairs between validations within an epoch; None: only after each epoch."""
    zeroshot: dict[str, ZeroShotSet] = Field(default_factory=dict)
    """Name -> labelled set; its accuracy is logged as val_zeroshot_NAME."""


class WatchConfig(Config):
    """Where a run's numbers go beside metrics.jsonl and TensorBoard; changes nothing of the training."""

    wandb: str | None = None
    """Project of Weights & Biases; its own variables (WANDB_MODE=offline ...) say where it is."""
    mlflow: str | None = None
    """Tracking address of MLflow: http://..., sqlite:///FILE, or a folder."""
    profile_steps: tuple[int, int] | None = None
    """First and last step of the run that torch.profiler records into the artifact's profile/ folder."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """The device's dense peak, for MFU, where the built-in table doesn't know it."""


class TrainConfig(Config):
    """All settings of a training run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: LoopConfig = LoopConfig()
    validation: ValidationConfig = ValidationConfig()
    watch: WatchConfig = WatchConfig()

    def identity(self) -> dict[str, Any]:
        """The settings that decide what comes out; two runs with the same ones may go on from each other's checkpoints."""
        sections: dict[str, Config] = {"model": self.model, "data": self.data, "train": self.train}
        return {name: _decisive(section) for name, section in sections.items()}


def _decisive(section: Config) -> dict[str, Any]:
    fields = type(section).model_fields
    return {name: value for name, value in section.resolved().items() if fields[name].json_schema_extra != FREE}


def smoke() -> TrainConfig:
    """Does it run at all: two epochs of the tiny model.

    ``biomedray train PAIRS OUT --preset smoke``: seconds on a CPU; the loss falls a little.
    """
    loop = LoopConfig(epochs=2, batch_size=32, lr=1e-3, warmup_steps=2, grad_clip=1.0, log_every=1)
    return TrainConfig(model=ModelConfig(name="tiny", vocab_size=1024), train=loop)


def demo() -> TrainConfig:
    """The generated corpus of ``biomedray demo`` (some 1,500 pairs), on two CPU cores.

    ``biomedray train PAIRS OUT --preset demo``: about two minutes; R@1 on held-out articles at least
    ten times chance in both directions.
    """
    data = DataConfig(crop_scale=(0.7, 1.0))
    loop = LoopConfig(epochs=24, batch_size=64, lr=2e-3, weight_decay=0.1, warmup_steps=40, grad_clip=1.0)
    return TrainConfig(model=ModelConfig(name="tiny"), data=data, train=loop)


def small() -> TrainConfig:
    """A quarter of an hour on two CPU cores: a small ResNet that sees whole figures at 112 pixels, a 2-layer text tower.

    ``biomedray train PAIRS OUT --preset small``: of what a generated corpus of 1,500 articles allows, more than half
    (benchmarks/train_small.py has the number). With more pairs or a GPU: ``--set train.max_seconds=null``, or medium.
    """
    data = DataConfig(crop_scale=(0.85, 1.0), crop_ratio=(0.87, 1.15), crop_relative=True)
    loop = LoopConfig(
        epochs=24, batch_size=128, lr=2e-3, weight_decay=0.1, warmup_steps=60, grad_clip=1.0, max_seconds=780, log_every=5
    )
    return TrainConfig(model=ModelConfig(name="small"), data=data, train=loop)


def medium() -> TrainConfig:
    """Some ten thousand to a million pairs on one GPU: convnext_femto at 128 pixels, a 4-layer text tower.

    ``biomedray train PAIRS OUT --preset medium``: minutes per epoch of 100,000 pairs on a GPU (not measured on one).
    """
    loop = LoopConfig(epochs=16, batch_size=512, lr=1e-3, warmup_steps=200, grad_clip=1.0)
    return TrainConfig(model=ModelConfig(name="medium", vocab_size=8192), data=DataConfig(crop_scale=(0.8, 1.0)), train=loop)


def biomedclip() -> TrainConfig:
    """The released BiomedCLIP: ViT-B/16 from ImageNet, PubMedBERT, 256 tokens, Supplementary Table 9.

    ``biomedray train PAIRS OUT --preset biomedclip --workers 16``: 15 million pairs, 32 epochs of
    batches of 4,096 on 16 A100; the paper's validation R@1 is 82.90 (to text) and 81.86 (to image).
    It fetches both towers' weights; give ``model.text_tower=DIR`` and ``model.image_weights=FILE`` offline.
    """
    model = ModelConfig(name="biomedclip_vitb16_pubmedbert256", text_tower=PUBMEDBERT, image_weights="timm")
    data = DataConfig(window_row_groups=64, threads=8)
    return TrainConfig(model=model, data=data, train=LoopConfig(grad_checkpointing=True))


def biomedclip_64k() -> TrainConfig:
    """Supplementary Table 7: batches of 4k in the first 8 epochs, of 64k in the 32 that follow.

    ``biomedray train PAIRS OUT --preset biomedclip-64k --workers 16``: the paper's validation R@1 is 87.32 and 86.66
    against 83.98 and 82.71 with 4k in all 40 epochs (``--set 'train.batch_schedule=[]'``), with no gain downstream.
    """
    recipe = biomedclip()
    loop = recipe.train.model_copy(update={"epochs": 40, "batch_schedule": ((8, 65536),)})
    return recipe.model_copy(update={"train": loop})


def biomedclip_gpt77() -> TrainConfig:
    """Supplementary Table 1, first row: CLIP's own text tower, byte pairs and 77 tokens, new; 8 epochs.

    ``biomedray train PAIRS OUT --preset biomedclip-gpt77``: the paper's validation R@1 is 64.53 and 63.56.
    """
    recipe = biomedclip()
    model = ModelConfig(name="biomedclip_vitb16_gpt77", image_weights="timm")
    return recipe.model_copy(update={"model": model, "train": recipe.train.model_copy(update={"epochs": 8})})


def continual_vitb16() -> TrainConfig:
    """Supplementary Table 8: OpenAI's ViT-B/16 with its text tower (77 tokens), trained on from WIT-400M.

    ``biomedray train PAIRS OUT --preset continual-vitb16``: the paper's validation R@1 is 81.57 and 80.89. Offline:
    ``--set model.clip_weights=FILE``.
    """
    return biomedclip().model_copy(update={"model": ModelConfig(name="clip_vitb16_gpt77", clip_weights="openai")})


def continual_rn50() -> TrainConfig:
    """Supplementary Table 8: OpenAI's ResNet-50 with its text tower (77 tokens), trained on from WIT-400M.

    ``biomedray train PAIRS OUT --preset continual-rn50``: the paper's validation R@1 is 81.17 and 80.17. Offline:
    ``--set model.clip_weights=FILE``.
    """
    return biomedclip().model_copy(update={"model": ModelConfig(name="clip_rn50_gpt77", clip_weights="openai")})


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "smoke": smoke,
    "demo": demo,
    "small": small,
    "medium": medium,
    "biomedclip": biomedclip,
    "biomedclip-64k": biomedclip_64k,
    "biomedclip-gpt77": biomedclip_gpt77,
    "continual-vitb16": continual_vitb16,
    "continual-rn50": continual_rn50,
}


def preset(name: str) -> TrainConfig:
    """The configuration of that name.

    Raises:
        UserError: there is none; the line lists those there are.
    """
    if name not in PRESETS:
        raise UserError(f"preset '{name}': no such preset; there are {', '.join(PRESETS)}")
    return PRESETS[name]()
