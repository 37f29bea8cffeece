"""What a trial will cost, counted before it starts: pairs seen and floating-point work."""

from __future__ import annotations

from dataclasses import dataclass

from biomedray.model import catalogue
from biomedray.model.flops import count
from biomedray.train.plan import Plan
from biomedray.train.presets import TrainConfig

CAPTION_TOKENS = 110
"""Tokens of 256 that PubMedBERT sees of a PMC caption on average; a shorter context sees at most its own length."""
H200_TFLOPS, MFU = 989.0, 0.4
"""Dense bf16 peak by the data sheet, and the share of it that a good run gets: an assumption, not a measurement."""
HOUR = 3600


@dataclass(frozen=True)
class Cost:
    """Of one trial."""

    pairs_seen: int
    gflop_per_pair: float | None
    """Forward and backward; None for a model that is only known once it is loaded."""

    @property
    def h200_hours(self) -> float | None:
        """At 40 % of an H200's peak."""
        if self.gflop_per_pair is None:
            return None
        return self.pairs_seen * self.gflop_per_pair * 1e9 / (H200_TFLOPS * 1e12 * MFU) / HOUR


def estimate(config: TrainConfig, rows: int, trains: bool = True) -> Cost:
    """Of a run over so many training pairs; raises UserError where a batch is larger than they are."""
    seen = Plan(rows, config.train).total_samples if trains else 0
    return Cost(seen, _work(config))


def _work(config: TrainConfig) -> float | None:
    if config.model.init_from is not None:
        return None
    from biomedray.model.towers import model_cfg_of

    model_cfg = model_cfg_of(config.model)
    bert = catalogue.bert_base() if "hf_model_name" in model_cfg["text_cfg"] else None
    tokens = min(CAPTION_TOKENS, int(model_cfg["text_cfg"]["context_length"]))
    return count(model_cfg, bert).train_pair(tokens) / 1e9
