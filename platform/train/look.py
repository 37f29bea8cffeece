"""The validation of a run's first weights, for models that are compared as they are."""

from __future__ import annotations

from pathlib import Path

import torch

from biomedray.model import features, front, tokenizer, weights
from biomedray.train.prepare import check, prepare
from biomedray.train.presets import TrainConfig
from biomedray.train.rows import PairsReader
from biomedray.train.validate import Validation


def look(pairs: Path | str, out: Path, config: TrainConfig) -> dict[str, float]:
    """What a run with these settings would report if it learnt nothing: ``val_loss``, ``val_r1_i2t``, ...

    Raises:
        UserError: as ``train``.
    """
    job = prepare(out, config, check(pairs, out, config))
    opened = weights.open_folder(job.start)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens = tokenizer.Tokens(opened.tokenizer, trim=features.ignores_padding(opened.clip))
    data = config.data
    reader = PairsReader(job.source, job.index("val"), keep=2)
    settings = front.eval_settings(opened)
    validate = Validation(reader, data.val_pairs, settings, tokens, data.cache_mb, zeroshot=config.validation.zeroshot)
    return validate(opened.clip.to(device), device)
