"""What two processes find together, run by the fixture ``together``: gradients of a batch, and a validation.

python two.py RANK FOLDER PAIRS SETS
"""

from __future__ import annotations

import importlib.util
import sys
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from open_clip.transform import PreprocessCfg
from torch import distributed

from biomedray.train.presets import ZeroShotSet
from biomedray.train.rows import PairsReader, index_rows
from biomedray.train.source import Source
from biomedray.train.together import fingerprint_of
from biomedray.train.validate import Validation

_spec = importlib.util.spec_from_file_location("gate", Path(__file__).with_name("gate.py"))
gate = sys.modules.setdefault("gate", importlib.util.module_from_spec(_spec))
if not hasattr(gate, "make"):
    _spec.loader.exec_module(gate)

DROPOUTS = [(patch, bert) for patch in (0.0, 0.5) for bert in (0.0, 0.1)]
Found = dict[Any, Any]


def words(captions: list[str]) -> torch.Tensor:
    """Token ids of a caption's words."""
    found = torch.zeros((len(captions), gate.CONTEXT), dtype=torch.long)
    for row, caption in enumerate(captions):
        ids = [2, *(5 + zlib.crc32(word.encode()) % 80 for word in caption.split()[: gate.CONTEXT - 2]), 3]
        found[row, : len(ids)] = torch.tensor(ids)
    return found


def validation(folder: Path, pairs: Path, sets: Path, bf16: bool = False) -> dict[str, float]:
    """Scores of a model that has learned nothing, over an odd number of pairs and of pictures."""
    reader = PairsReader(Source.of(pairs), index_rows(Source.of(pairs), "val"))
    labelled = {"colours": ZeroShotSet(folder=str(sets), templates=("a {}",))}
    settings = asdict(PreprocessCfg(size=gate.SIDE))
    return Validation(reader, 23, settings, words, 16, None, labelled, bf16)(gate.make(folder, 0.0, 0.0), "cpu")


def gradients(rank: int, folder: Path) -> Found:
    """Of this process' half of the batch, for every dropout, in one piece and in two."""
    own = slice(rank * 8, rank * 8 + 8)
    found = {}
    for patch, bert in DROPOUTS:
        for way in ({}, {"micro_batch": 3, "loss_tile": 4, "grad_checkpointing": True}):
            found[patch, bert, str(way)] = gate.step_gradients(gate.make(folder, patch, bert), own, **way)
    clip = gate.make(folder, 0.5, 0.1, init_logit_bias=-3.0)
    found[0.5, 0.1, "siglip"] = gate.step_gradients(clip, own, loss="siglip", micro_batch=4, loss_tile=3)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    worker, where = int(sys.argv[1]), Path(sys.argv[2])
    distributed.init_process_group("gloo", init_method=f"file://{where}/meet", rank=worker, world_size=2)
    scores = {bf16: validation(where / f"m{worker}", Path(sys.argv[3]), Path(sys.argv[4]), bf16) for bf16 in (False, True)}
    half = [f"PMC{i}.1/F1/0" for i in range(24)][worker * 12 : worker * 12 + 12]
    mine = fingerprint_of(half, "cpu")
    torch.save(
        {"fingerprint": mine, "gradients": gradients(worker, where / f"m{worker}"), "validation": scores},
        where / f"found-{worker}.pt",
    )
    distributed.destroy_process_group()
