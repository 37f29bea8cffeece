"""A user's own model: a function that returns an object with three methods.

    python:MODULE:FUNCTION or python:FILE.py:FUNCTION;  FUNCTION(device) -> object

    preprocess(image: PIL.Image.Image) -> torch.Tensor      RGB -> [3, S, S]
    encode_images(batch: torch.Tensor) -> torch.Tensor      [n, 3, S, S] on the device -> [n, D]
    encode_texts(texts: list[str]) -> torch.Tensor          -> [n, D]

and, if it likes, name, logit_scale (100 otherwise, where CLIP's stops), context_length (0: not known) and fingerprint.
Without a fingerprint the model is told from others by the signs of the vectors it gives for a few fixed samples.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from biomedray.artifacts import fingerprint
from biomedray.errors import UserError
from biomedray.evaluate.adapters import common

_METHODS = ("preprocess", "encode_images", "encode_texts")
_LOGIT_SCALE = 100.0
_PROBES = ("normal lung", "pneumonia on a chest radiograph", "H&E stain of colon adenocarcinoma", "Western blot of p53")


def load(spec: str, device: str = "cpu") -> common.Adapted:
    """``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``; the working directory is searched for modules too.

    Raises:
        UserError: there is no such function, it fails, or what it returns lacks a method.
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name:
        raise UserError(f"python:{spec}: write python:MODULE:FUNCTION or python:FILE.py:FUNCTION")
    function = getattr(_module(where, spec), name, None)
    if not callable(function):
        raise UserError(f"python:{spec}: {where} has no function {name}")
    try:
        model = function(device)
    except Exception as error:  # the user's own code
        raise UserError(f"python:{spec}: {name} failed: {type(error).__name__}: {common.line(error)}") from error
    if lacking := [method for method in _METHODS if not callable(getattr(model, method, None))]:
        raise UserError(f"python:{spec}: what {name} returns has no method {lacking[0]}; it needs {', '.join(_METHODS)}")
    return common.Adapted(_parts(model, spec), device)


def _parts(model: Any, spec: str) -> common.Parts:
    return common.Parts(
        name=str(getattr(model, "name", spec.rpartition(":")[2])),
        fingerprint=str(getattr(model, "fingerprint", None) or _signs(model)),
        logit_scale=float(getattr(model, "logit_scale", _LOGIT_SCALE)),
        context_length=int(getattr(model, "context_length", 0)),
        transform=lambda image: torch.as_tensor(model.preprocess(image)),
        images=lambda batch: torch.as_tensor(model.encode_images(batch)),
        texts=lambda texts: torch.as_tensor(model.encode_texts(texts)),
    )


def _signs(model: Any) -> str:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        picture = torch.as_tensor(model.preprocess(Image.fromarray(noise)))[None]
        found = [torch.as_tensor(model.encode_images(picture)), torch.as_tensor(model.encode_texts(list(_PROBES)))]
    return fingerprint([(part.detach().cpu().float() > 0).int().tolist() for part in found])


def _module(where: str, spec: str) -> ModuleType:
    try:
        if where.endswith(".py"):
            return _from_file(Path(where))
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)
        return importlib.import_module(where)
    except Exception as error:  # the user's own code, which may fail in any way
        raise UserError(f"python:{spec}: cannot be imported: {type(error).__name__}: {common.line(error)}") from error


def _from_file(path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"biomedray_own_{path.stem}", path)
    if found is None or found.loader is None or not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
