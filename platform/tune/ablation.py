"""What an ablation is: a question, its variants with what each of them changes, and what the paper found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from biomedray.config import override
from biomedray.errors import UserError
from biomedray.train.presets import TrainConfig, preset

Scale = Literal["smoke", "small", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)


@dataclass(frozen=True)
class Metric:
    """A number of a trial; ``key`` is its name in a validation (``val_...``), or ``train_seconds``."""

    key: str
    title: str
    higher: bool = True
    """Whether more is better."""
    percent: bool = True

    def shown(self, value: float) -> str:
        """As a table writes it; shares in percent."""
        return f"{100 * value:.2f}" if self.percent else f"{value:.4g}"


LOSS = Metric("val_loss", "loss", higher=False, percent=False)
TO_TEXT = Metric("val_r1_i2t", "img2txt R@1 (%)")
TO_IMAGE = Metric("val_r1_t2i", "txt2img R@1 (%)")
SECONDS = Metric("train_seconds", "training time (s)", higher=False, percent=False)
TIMES = Metric("train_times", "training time (x)", higher=False, percent=False)
"""Of the first row's; the only time that can be laid beside the paper's."""
RETRIEVAL = (LOSS, TO_TEXT, TO_IMAGE)


@dataclass(frozen=True)
class Arm:
    """A variant at one scale: what the table's leading cells say of it, and the settings that make it so."""

    cells: tuple[str, ...]
    settings: tuple[str, ...] = ()
    trains: bool = True
    """False: the weights are looked at as they are."""


@dataclass(frozen=True)
class Variant:
    """One row of a table."""

    name: str
    arms: Mapping[Scale, Arm]
    paper: Mapping[str, float] = field(default_factory=dict)
    """The paper's numbers by the key of their metric, shares from 0 to 1."""


@dataclass(frozen=True)
class Ablation:
    """A table of the paper, or a question of the same kind."""

    name: str
    source: str
    """The table of the paper, or where the question comes from."""
    hypothesis: str
    """Written before any run of ours."""
    expected: str
    """What the paper found, in a sentence."""
    header: tuple[str, ...]
    """Titles of the leading cells."""
    variants: tuple[Variant, ...]
    base: Mapping[Scale, tuple[str, tuple[str, ...]]]
    """Preset and settings that all variants share."""
    metrics: tuple[Metric, ...] = RETRIEVAL

    def at(self, scale: Scale) -> list[Variant]:
        """The variants that there are at a scale, in the table's order."""
        return [variant for variant in self.variants if scale in variant.arms]

    def config(self, variant: Variant, scale: Scale, seed: int, given: Mapping[str, str], extra: tuple[str, ...]) -> TrainConfig:
        """All settings of a trial; ``extra`` ones come last and so win.

        Raises:
            UserError: a setting doesn't fit or is what is tried here, or the variant needs a file that was not given.
        """
        name, shared = self.base[scale]
        for setting in extra:
            if (key := _key(setting)) in self._tried(scale):
                instead = "ask for repeats by --seeds" if key == "train.seed" else "that is what this ablation tries"
                raise UserError(f"--set {setting}: {instead}")
        settings = [_filled(setting, given, self.name) for setting in (*shared, *variant.arms[scale].settings)]
        return override(preset(name), [*settings, *extra, f"train.seed={seed}"])

    def _tried(self, scale: Scale) -> set[str]:
        """Settings that differ between its rows: were one of them set for all, the table would lie."""
        arms = [variant.arms[scale].settings for variant in self.at(scale)]
        differ = {setting for settings in arms for setting in settings if any(setting not in other for other in arms)}
        return {_key(setting) for setting in differ} | {"train.seed"}


def _key(setting: str) -> str:
    return setting.partition("=")[0].strip()


NEEDS = {
    "general": "a model of another field to go on from; give one with --general MODEL",
    "image_weights": "pretrained weights of the picture tower; give them with --image-weights FILE",
}
"""What a user may have to bring, and how to say so."""


def _filled(setting: str, given: Mapping[str, str], ablation: str) -> str:
    for name, hint in NEEDS.items():
        if f"<{name}>" in setting:
            if name not in given:
                raise UserError(f"--ablation {ablation}: it needs {hint}")
            setting = setting.replace(f"<{name}>", given[name])
    return setting
