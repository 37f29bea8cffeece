r"""A generated corpus of biomedical articles, in both PMC layouts, with damaged ones and known truth.

    seed, i -> plan (topic, figures, captions, text) -> pictures -+-> packages/PMC1.tar.gz
                                                    \-> JATS XML -+-> cloud/PMC2.1/..., cloud/metadata, inventory
    truth.jsonl: what every picture shows, every caption says, and what an ingester should make of it

The pictures are drawn, not real: they serve demos, tests and benchmarks, and teach nothing of medicine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from biomedray.artifacts import Manifest

__all__ = ["generate"]


def generate(
    out: Path,
    articles: int = 64,
    seed: int = 0,
    layout: Literal["cloud", "package", "mixed"] = "mixed",
    broken: float = 0.0,
    progress: bool = True,
    long_captions: float | None = None,
) -> Manifest:
    """Write a corpus to ``out`` and give back its manifest.

    The same settings give the same bytes, also after a kill and a restart; article i depends on
    the seed, i and its layout only. ``broken`` adds damaged articles, as a fraction of
    ``articles``; above 0 every class of damage that fits the layout occurs at least once.
    ``long_captions``: the share of captions that open with 70 to 130 words of background, so that what tells
    figures apart comes after a context of 77 tokens; None: few do, as in PMC.

    Raises:
        UserError: a setting is out of range, or ``out`` holds something else.
    """
    from rich.console import Console
    from rich.progress import track

    from biomedray.artifacts import claim_output, write_manifest
    from biomedray.corpus.write import CorpusConfig, Made, jobs, make_all, manifest, sweep, write_lists

    _check(articles, seed, layout, broken)
    config = CorpusConfig(articles=articles, seed=seed, layout=layout, broken=broken, long_captions=long_captions)
    if claim_output(out, "corpus", config.resolved()):
        sweep(out)
    made: list[Made] = []
    console = Console(stderr=True)
    for found in track(make_all(out, config), "articles", total=len(jobs(config)), console=console, disable=not progress):
        made.extend(found)
    write_lists(out, made)
    result = manifest(out, config)
    write_manifest(out, result)
    return result


def _check(articles: int, seed: int, layout: str, broken: float) -> None:
    from biomedray.errors import UserError

    if not 0 < articles <= 900_000:
        raise UserError(f"--articles {articles}: give a number from 1 to 900000")
    if seed < 0:
        raise UserError(f"--seed {seed}: give 0 or a positive number")
    if layout not in ("cloud", "package", "mixed"):
        raise UserError(f"--layout {layout}: choose cloud, package or mixed")
    if not 0 <= broken <= 10:
        raise UserError(f"--broken {broken}: give a fraction, such as 0.2 for one damaged article to five whole ones")
