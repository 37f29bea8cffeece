"""Models to compare, through one small interface, whoever trained them.

spec -- open_model --> Model: images and texts to unit vectors, with its own preprocessing, tokenizer and scale

FOLDER, local-dir:FOLDER, hf-hub:ORG/NAME      ours, and whatever open_clip loads by these names (BiomedCLIP)
open_clip:NAME/PRETRAINED                      open_clip's own models; PRETRAINED is a tag or a checkpoint's path
transformers:FOLDER or transformers:ORG/NAME   CLIP (PubMedCLIP, PLIP), SigLIP, a dual encoder
medclip:FOLDER                                 MedCLIP's checkpoint
python:MODULE:FUNCTION                         a user's own
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from biomedray.errors import UserError

if TYPE_CHECKING:
    import torch

Vectors = NDArray[np.float32]
Picture = bytes | NDArray[np.uint8]

SPECS = "FOLDER, hf-hub:ORG/NAME, open_clip:NAME/PRETRAINED, transformers:FOLDER, medclip:FOLDER or python:MODULE:FUNCTION"


class Model(Protocol):
    """Both towers of a model, ready to embed."""

    @property
    def name(self) -> str:
        """Short name for tables."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identity of weights, preprocessing and tokenizer, wherever the files lie."""
        ...

    @property
    def embed_dim(self) -> int:
        """Length D of an embedding."""
        ...

    @property
    def logit_scale(self) -> float:
        """Factor on cosine similarities that turns them into logits."""
        ...

    @property
    def context_length(self) -> int:
        """Most tokens of a text that the model sees."""
        ...

    @property
    def image_size(self) -> int:
        """Side S in pixels of the square that the image tower sees."""
        ...

    @property
    def device(self) -> str:
        """Where it runs, as torch names it."""
        ...

    def preprocess(self, image: Picture) -> torch.Tensor:
        """A file's bytes or its pixels -> [3, S, S] float32, by this model's own transform.

        Raises:
            pixels.PixelError: it is no image.
        """
        ...

    def encode_pixels(self, batch: torch.Tensor) -> Vectors:
        """[n, 3, S, S] preprocessed pixels -> [n, D] float32 unit vectors."""
        ...

    def encode_images(self, images: Sequence[Picture]) -> Vectors:
        """N images -> [n, D] float32 unit vectors; pixels.PixelError as ``preprocess``."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """N texts -> [n, D] float32 unit vectors; what exceeds the context is cut off."""
        ...


def open_model(spec: str | Path, device: str = "cpu") -> Model:
    """Load the model that ``spec`` names (see the module's head) on a torch device.

    Raises:
        UserError: nothing has that name, the folder is of another kind or incomplete, the hub can't be reached.
    """
    _check_device(device)
    kind, colon, rest = str(spec).partition(":")
    if colon and (opener := _OPENERS.get(kind)) and not Path(str(spec)).exists():
        if not rest:
            raise UserError(f"model '{spec}': name what follows the colon; a model is {SPECS}")
        return opener(rest, device)
    return _open_folder(str(spec), device)


def placed(spec: str | Path) -> str:
    """The same model by a name that holds in any folder: paths in it are made absolute."""
    text = str(spec)
    kind, colon, rest = text.partition(":")
    if not colon or Path(text).exists():
        return str(Path(text).resolve()) if Path(text).exists() else text
    before, after = "", ""
    if kind == "open_clip":
        before, slash, rest = rest.partition("/")
        before += slash
    elif kind == "python":
        rest, colon, after = rest.rpartition(":")
        after = colon + after
    return f"{kind}:{before}{Path(rest).resolve()}{after}" if rest and Path(rest).exists() else text


def best_device() -> str:
    """A GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_device(device: str) -> None:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device}: torch sees no GPU here; use cpu")


def _open_folder(spec: str, device: str) -> Model:
    from biomedray.evaluate.adapters import huggingface
    from biomedray.model.encoder import Encoder

    folder = Path(spec)
    if not folder.exists() and not spec.startswith(("local-dir:", "hf-hub:")):
        raise UserError(f"model '{spec}': no such folder; a model is {SPECS}")
    if huggingface.is_folder(folder):
        return huggingface.load(spec, device)
    return Encoder.load(spec, device)


def _open_clip(rest: str, device: str) -> Model:
    from biomedray.evaluate.adapters import openclip

    return openclip.load(rest, device)


def _transformers(rest: str, device: str) -> Model:
    from biomedray.evaluate.adapters import huggingface

    return huggingface.load(rest, device)


def _medclip(rest: str, device: str) -> Model:
    from biomedray.evaluate.adapters import medclip

    return medclip.load(rest, device)


def _python(rest: str, device: str) -> Model:
    from biomedray.evaluate.adapters import own

    return own.load(rest, device)


_OPENERS: dict[str, Callable[[str, str], Model]] = {
    "open_clip": _open_clip,
    "transformers": _transformers,
    "medclip": _medclip,
    "python": _python,
}
