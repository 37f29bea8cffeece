"""What computes the towers fastest on one core, and what padding costs: torch in three precisions, compiled, OpenVINO, ONNX.

Method: ViT-B/16 and a BERT-base with random weights, one thread, all ways in one process, in turn, CPU milliseconds an
item (least of the rounds: what other jobs on the machine add is not the model's). Pictures are noise; texts are captions of
real packages (see ``_towers.py``), cut into batches as they come, so a batch is padded to its longest.

    torch float32      the encoder as evaluation and indexing use it
    torch autocast     bfloat16 by autocast alone: weights are converted in every call
    torch bfloat16     weights kept in bfloat16, autocast for the rest
    ... packed         serving's: the same, texts laid end to end (packed_bert)
    ... whole layers   the same without the short last layer (cls_vit, cls_bert): what open_clip itself computes
    ... compiled       torch.compile of one layer, dynamic sizes; ``compile_s`` is what the first calls take
    openvino bfloat16  --set backend=openvino
    onnxruntime float32  exported by torch.onnx; it has no bfloat16 on the CPU
    cosine             least cosine to torch float32

texts_sorted: the same captions sorted by length before they are cut into batches of 16, as the batcher's length buckets come
near to. padded to 256: what open_clip's tokenizer gives, in the same precision, through open_clip's own forward.
start_tokens: a and b of "milliseconds of a batch = a + b * padded tokens", as a / b: what starting a batch costs in tokens.

OpenVINO and ONNX Runtime are installed to a temporary folder by uv, or lie in --packages.

Usage: python benchmarks/serve_encoders.py [--rounds 2] [--packages FOLDER] [--ways torch,compiled,openvino,onnx] [--texts 64]
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from _measure import record
from _towers import captions, opened

WHEELS = ("openvino", "openvino-telemetry", "onnxruntime", "onnx", "onnxscript", "onnx-ir", "ml-dtypes", "flatbuffers")
IMAGE_BATCHES = (1, 8, 16)
TEXT_BATCH = 16

Batches = Sequence[Any]


class Way:
    """Both towers in one way; texts come padded to the longest, or where ``packed`` as rows of token ids."""

    def __init__(
        self, name: str, images: Callable[[Any], Any], texts: Callable[[Any], Any], began: float = 0.0, packed: bool = False
    ) -> None:
        self.name, self.images, self._texts, self._packed = name, images, texts, packed
        self.compile_s = time.perf_counter() - began if began else 0.0

    def texts(self, rows: Sequence[Any]) -> Any:
        """Token ids of n texts -> [n, d]."""
        return self._texts(rows if self._packed else _stacked(rows))


def torch_ways() -> list[Way]:
    """Torch in three precisions, and bfloat16 without the short last layer."""
    import torch

    from biomedray.model.backends import Torch
    from biomedray.model.precision import lighten

    clip = opened().clip
    light = copy.deepcopy(clip)
    lighten(light)
    exact, auto, half = Torch(clip, "cpu"), Torch(clip, "cpu", bfloat16=True), Torch(light, "cpu", bfloat16=True)

    def whole(encode: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(given: Any) -> Any:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                return torch.nn.functional.normalize(encode(given).float(), dim=-1)

        return run

    return [
        Way("torch float32", exact.images, exact.texts),
        Way("torch autocast", auto.images, auto.texts),
        Way("torch bfloat16", half.images, half.texts),
        Way("torch bfloat16, packed", half.images, half.packed, packed=True),
        Way("torch bfloat16, whole layers", whole(light.encode_image), whole(light.encode_text)),
    ]


def compiled_way() -> Way:
    """One layer of each tower by Inductor."""
    import torch
    from torch.nn.functional import normalize

    from biomedray.model import cls_bert, cls_vit
    from biomedray.model.precision import lighten

    began, clip = time.perf_counter(), opened().clip
    lighten(clip)
    image_layer, text_layer = torch.compile(cls_vit.layer, dynamic=True), torch.compile(cls_bert.layer, dynamic=True)

    def images(given: Any) -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return normalize(cls_vit.encode(clip.visual, given, run=image_layer).float(), dim=-1)

    def texts(given: Any) -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return normalize(cls_bert.encode(clip.text, given, run=text_layer).float(), dim=-1)

    for count in (2, 16):
        images(torch.zeros(count, 3, 224, 224))
        texts(torch.ones(count, 20 + count, dtype=torch.int64))
    return Way("torch bfloat16, compiled", images, texts, began)


def openvino_way() -> Way:
    """The optional backend."""
    from biomedray.model.backends import OpenVino

    began = time.perf_counter()
    made = OpenVino(opened().clip, (224, None), bfloat16=True)
    return Way("openvino bfloat16", made.images, made.texts, began)


def onnx_way(scratch: Path) -> Way:
    """Both towers by ONNX Runtime."""
    import onnxruntime
    import torch

    from biomedray.model import features
    from biomedray.model.backends import Tower

    began, clip = time.perf_counter(), opened().clip
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1

    def session(name: str, tower: Any, example: Any, axes: dict[int, str]) -> Callable[[Any], Any]:
        path = scratch / f"{name}.onnx"
        with torch.no_grad():
            torch.onnx.export(Tower(clip, tower), (example,), path, input_names=["x"], dynamic_axes={"x": axes}, dynamo=False)
        run = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        return lambda given: torch.from_numpy(run.run(None, {"x": given.numpy()})[0])

    images = session("image", features.image_features, torch.zeros(2, 3, 224, 224), {0: "n"})
    texts = session("text", features.text_features, torch.ones(2, 9, dtype=torch.int64), {0: "n", 1: "l"})
    return Way("onnxruntime float32", images, texts, began)


def cost(run: Callable[[Any], Any], batches: Batches) -> float:
    """CPU milliseconds an item."""
    started = time.process_time()
    for batch in batches:
        run(batch)
    return 1000 * (time.process_time() - started) / sum(len(batch) for batch in batches)


def _stacked(rows: Sequence[Any]) -> Any:
    """[n, L], padded by BERT's 0 to the longest."""
    import torch

    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)


def least_cosine(one: Any, other: Any) -> float:
    """Between rows."""
    import torch

    return float(torch.nn.functional.cosine_similarity(one, other).min())


def measure(ways: list[Way], given: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for each way; facts on texts."""
    import torch

    from biomedray.model.tokenizer import Tokens

    tokenizer = opened(layers=1).tokenizer
    tokens = Tokens(tokenizer, trim=True)
    texts = captions(given.texts)
    rows = [row.ids for row in tokens.rows(texts)]
    cut = lambda some, size: [some[start : start + size] for start in range(0, len(some), size)]  # noqa: E731  # short
    work: dict[str, tuple[str, Batches]] = {
        **{f"image_{count}": ("images", [torch.rand(count, 3, 224, 224)]) for count in IMAGE_BATCHES},
        "text_1": ("texts", cut(rows[:8], 1)),
        "text_8": ("texts", cut(rows, 8)),
        "text_16": ("texts", cut(rows, TEXT_BATCH)),
        "text_16_sorted": ("texts", cut(sorted(rows, key=len), TEXT_BATCH)),
    }
    padded = list(tokenizer(texts)[:TEXT_BATCH].numpy())
    start = {length: list(torch.randint(5, 9999, (TEXT_BATCH, length)).numpy()) for length in (8, 128)}
    found: dict[tuple[str, str], list[float]] = {}
    for way in ways:  # a warm-up
        for tower, batches in work.values():
            getattr(way, tower)(batches[0])
    for _ in range(given.rounds):
        for way in ways:
            for name, (tower, batches) in work.items():
                found.setdefault((way.name, name), []).append(cost(getattr(way, tower), batches))
            if way.name in ("torch bfloat16", "openvino bfloat16"):
                for length, batch in start.items():
                    found.setdefault((way.name, f"length_{length}"), []).append(cost(way.texts, [batch]))
            if way.name.endswith("whole layers"):
                found.setdefault((way.name, "padded"), []).append(cost(way.texts, [padded]))
    least = {key: min(values) for key, values in found.items()}
    print({" ".join(key): round(value, 1) for key, value in least.items()}, flush=True)
    image, text = work["image_8"][1][0], work["text_16"][1][0]
    reference = ways[0].images(image), ways[0].texts(text)
    table = [
        {
            "way": way.name,
            **{f"{name}_ms": round(least[way.name, name], 1) for name in work},
            "cosine_image": round(least_cosine(reference[0], way.images(image)), 5),
            "cosine_text": round(least_cosine(reference[1], way.texts(text)), 5),
            "compile_s": round(way.compile_s, 1),
        }
        for way in ways
    ]
    lengths = np.array([len(row) for row in rows])
    own, all_of_256 = least["torch bfloat16, packed", "text_16"], least["torch bfloat16, whole layers", "padded"]
    facts = {
        "tokens_median": float(np.median(lengths)),
        "tokens_mean": round(float(lengths.mean()), 1),
        "tokens_most": int(lengths.max()),
        "padded_to_256_ms": round(all_of_256, 1),
        "padded_over_ours": round(all_of_256 / own, 2),
        "start_tokens": {name: start_tokens(least, name) for name, key in least if key == "length_8"},
    }
    return table, facts


def start_tokens(least: dict[tuple[str, str], float], name: str) -> int:
    """What starting a batch costs, in tokens."""
    short, long = (TEXT_BATCH * least[name, f"length_{length}"] for length in (8, 128))
    each = (long - short) / (TEXT_BATCH * 120)
    return round(short / each - TEXT_BATCH * 8)


def main() -> None:
    """Print a row for each way."""
    options = argparse.ArgumentParser(description="What computes the towers fastest on one core.")
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--texts", type=int, default=64)
    options.add_argument("--packages", type=Path)
    options.add_argument("--ways", default="torch,compiled,openvino,onnx")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="biomedray-bench-") as name:
        scratch = Path(name)
        if given.packages is None and {"openvino", "onnx"} & set(given.ways.split(",")):
            given.packages = scratch / "packages"
            command = ["uv", "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", "--target"]
            subprocess.run([*command, str(given.packages), *WHEELS], check=True)
        if given.packages is not None:
            sys.path.append(str(given.packages))
        import torch

        torch.set_num_threads(1)
        make = {"compiled": compiled_way, "openvino": openvino_way, "onnx": lambda: onnx_way(scratch)}
        ways = [*torch_ways(), *(make[way]() for way in given.ways.split(",") if way != "torch")]
        rows, facts = measure(ways, given)
    method = f"ViT-B/16 and BERT-base, one thread, CPU ms an item, least of {given.rounds} rounds in turn, {given.texts} captions"
    record("serve-encoders", method, rows, **facts)
    print(facts)


if __name__ == "__main__":
    main()
