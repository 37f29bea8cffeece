r"""Two towers that put images and texts into one space; pure torch and open_clip, no Ray.

    configs/*.json --+
    captions --------+--> initialise --> [model folder] --> load --> Encoder: bytes, texts -> unit vectors
    text tower ------+                    |        ^
                                          +- train -+   (loss, preprocess)

The folder is open_clip's own layout, so plain open_clip loads it too, with no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from biomedray.model.encoder import Encoder

__all__ = ["config_names", "load"]


def load(spec: str | Path, device: str = "cpu") -> Encoder:
    """The encoders of a model folder, ``local-dir:FOLDER`` or ``hf-hub:org/name``.

    Raises:
        UserError: the model is missing, incomplete or not one that open_clip can load.
    """
    from biomedray.model.encoder import Encoder

    return Encoder.load(spec, device)


def config_names() -> list[str]:
    """Names of the model configurations that training can start from."""
    from biomedray.model import catalogue

    return catalogue.names()
