"""What serving costs beside the model: throughput, latency, overload, cost of a request, start-up, memory.

Model: BiomedCLIP's shapes (ViT-B/16 at 224 pixels, BERT-base, 256 tokens) with random weights; captions and pictures of real
packages where they are there. Service: ``biomedray serve`` as a user starts it, HAProxy in front; the load generator is a
process of its own on the same machine, so its share counts against the service.

    throughput  items a second with concurrent clients over the bare model's own, decoding included, in turn over rounds;
                both by the seconds that the machine was given: on a virtual one others may take a half of some minutes.
                bare: one process, the same precision and threads, full batches, the next one decoded while one runs.
                padded: open_clip's own forward pass in the same precision, texts padded to 256 tokens by its own tokenizer.
    latency     Poisson arrivals at 50, 60, 80, 100 and 1000 % of the measured capacity, one image a request:
                p50 and p99 from the moment when a request was due, goodput over the peak, what was refused and how fast.
                The capacity is the first closed loop's; the peak of a row is the mean of the closed loops before and after it.
                After more than 100 %: seconds until 50 % runs as before. "generator_cores": what the load generator itself took.
    overhead    a tiny model, one text a request, a closed loop of 16: CPU milliseconds a request of all processes of the
                service, less those of encoding the same texts one at a time in a bare process; by HAProxy and Python proxy.
    startup     seconds from the command to the first answer of /readyz, of the large model and the tiny one.
    memory      resident memory of the replica over minutes of mixed load at 150 % of capacity, every 30 seconds.

Usage: python benchmarks/serve.py [--part throughput|latency|overhead|startup|memory] [--rounds 3] [--seconds 20] [--minutes 30]
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _load
import _service
from _measure import Given, record, work
from _towers import captions, pictures, write_model

CLIENTS, ITEMS = 32, 16
TEXT_CLIENTS, TEXT_ITEMS = 4, 32  # within the ten seconds of work that a service lets wait
PICTURES, TEXTS = 96, 1024
SHARES = (0.5, 0.6, 0.8, 1.0, 10.0)
RECOVERY_SECONDS = 20.0


def main() -> None:
    """Measure a part, print, write benchmarks/results/serve_PART.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=tuple(PARTS), action="append", help="all but memory when not given")
    parser.add_argument("--kinds", nargs="+", choices=("images", "texts"), default=["images", "texts"], help="of throughput")
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES, help="of the capacity, in the part latency")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of one load")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the part memory")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        work(WAYS, given.child[0], given.child[1:])
        return
    with tempfile.TemporaryDirectory(prefix="biomedray-bench-") as name:
        folder = Path(name)
        (folder / "texts.txt").write_text("\n".join(" ".join(text.split())[:8000] for text in captions(TEXTS)))
        for number, data in enumerate(pictures(PICTURES)):
            (folder / f"{number}.jpg").write_bytes(data)
        write_model(folder / "large")
        for part in given.part or [part for part in PARTS if part != "memory"]:
            rows = PARTS[part](folder, given)
            method = "ViT-B/16 and BERT-base with random weights, real captions and pictures where they are there; see the script"
            whole = len(given.kinds) > 1 or part != "throughput"
            title = f"serve-{part}" if whole else f"serve-{part}-{given.kinds[0]}"
            record(title, method, rows, seconds=given.seconds, rounds=given.rounds, cpus=os.cpu_count())


# ---- throughput


def throughput(folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Served over bare, in turn."""
    both = {"images": ("images",), "texts": ("texts", "padded")}
    bare: dict[str, list[float]] = {way: [] for kind in given.kinds for way in both[kind]}
    served: dict[str, list[float]] = {kind: [] for kind in given.kinds}
    shares: list[float] = []
    with _service.start(folder / "large") as service:
        for _ in range(given.rounds):
            for kind, rates in bare.items():
                rates.append(_bare(kind, folder, given.seconds))
            for kind, rates in served.items():
                machine = Given()
                rate = _peak(service, kind, folder, given.seconds)["items_per_s"]
                shares.append(machine.share())
                rates.append(rate / shares[-1])
    middle = {kind: statistics.median(rates) for kind, rates in bare.items()}
    return [
        {
            "kind": kind,
            "served_per_s": statistics.median(rates),
            "bare_per_s": middle[kind],
            "served_over_bare": statistics.median(one / other for one, other in zip(rates, bare[kind], strict=True)),
            "lowest": min(one / other for one, other in zip(rates, bare[kind], strict=True)),
            "over_padded": statistics.median(rates) / middle["padded"] if kind == "texts" else "",
            "rounds": str([f"{one:.1f}/{other:.1f}" for one, other in zip(rates, bare[kind], strict=True)]),
            "least_given": min(shares),
        }
        for kind, rates in served.items()
    ]


def _bare(kind: str, folder: Path, seconds: float) -> float:
    """Items a second of the bare model, in a process of its own with all cores, as the replica has them."""
    from _measure import child

    return float(child(__file__, kind, folder, seconds, threads=os.cpu_count())["items_per_s"])


def _peak(service: _service.Service, kind: str, folder: Path, seconds: float) -> dict[str, Any]:
    clients, items = (CLIENTS, 1) if kind == "images" else (TEXT_CLIENTS, TEXT_ITEMS)
    load = _load.Load(service.url, clients=clients, seconds=seconds, warm=3.0, timeout=60.0)
    return _load.run(load, _payload(kind, folder), items=items)


def _payload(kind: str, folder: Path) -> list[str | Path]:
    return ["images", *sorted(folder.glob("*.jpg"))] if kind == "images" else ["texts", folder / "texts.txt"]


# ---- latency and overload


def latency(folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Open loops at shares of the capacity, between closed ones: a virtual machine's speed changes within minutes."""
    rows = []
    with _service.start(folder / "large") as service:
        first = peak = _peak(service, "images", folder, given.seconds)["requests_per_s"]
        alone = _load.run(_load.Load(service.url, clients=1, seconds=5.0, warm=1.0), _payload("images", folder))
        for share in given.shares:
            before = service.memory_mb()
            load = _load.Load(service.url, rate=share * first, seconds=given.seconds, warm=3.0, timeout=60.0)
            found = _load.run(load, _payload("images", folder))
            memory = {"memory_mb": service.memory_mb(), "memory_before_mb": before}
            recovery = _recovery(service, folder, first) if share > 1 else {}
            after = _peak(service, "images", folder, given.seconds)["requests_per_s"]
            rows.append({"load": f"{share:.0%}", **_told(found, (peak + after) / 2), **memory})
            if recovery:
                rows.append({"load": f"50% after {share:.0%}", **recovery})
            peak = after
    return [{**row, "first_peak_per_s": first, "alone_p50_ms": alone["accepted_ms"]["p50"]} for row in rows]


def _told(found: dict[str, Any], peak: float) -> dict[str, Any]:
    accepted, refused = found["accepted_ms"] or {}, found["refused_ms"] or {}
    statuses = found["by_status"]
    other = sum(count for status, count in statuses.items() if status not in ("200", "429", "503"))
    return {
        "goodput": found["requests_per_s"] / peak,
        "peak_per_s": peak,
        "p50_ms": accepted.get("p50", ""),
        "p99_ms": accepted.get("p99", ""),
        "refused": statuses.get("429", 0) + statuses.get("503", 0),
        "refused_p50_ms": refused.get("p50", ""),
        "refused_p99_ms": refused.get("p99", ""),
        "other": other,
        "generator_cores": found["generator_ms"] / 1000 * found["requests"] / found["load"]["seconds"],
    }


def _recovery(service: _service.Service, folder: Path, peak: float) -> dict[str, Any]:
    """Half the capacity right after the overload: when was the last refusal or slow second?"""
    load = _load.Load(service.url, rate=0.5 * peak, seconds=RECOVERY_SECONDS, timeout=60.0)
    found = _load.run(load, _payload("images", folder))
    bad = [row["second"] for row in found["timeline"] if set(row["by_status"]) - {"200"}]
    return {**_told(found, peak), "recovered_s": max(bad, default=-1) + 1}


# ---- Serve's own cost


def overhead(folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """CPU of the whole service for a small request, by proxy."""
    model = _tiny(folder)
    bare = _child_ms(folder, given.seconds)
    rows = []
    for proxy in ("haproxy", "python"):
        with _service.start(model, "--proxy", proxy) as service:
            for kind, payload, items in (("text", ["texts", folder / "texts.txt"], 1), ("livez", ["get", "/livez"], 1)):
                _load.run(_load.Load(service.url, clients=16, seconds=3.0), payload, items)
                cpu, replica = service.cpu_s(), service.cpu_s("ServeReplica")
                found = _load.run(_load.Load(service.url, clients=16, seconds=given.seconds), payload, items)
                done = sum(found["by_status"].values())
                whole, inside = 1000 * (service.cpu_s() - cpu) / done, 1000 * (service.cpu_s("ServeReplica") - replica) / done
                row = {"proxy": proxy, "request": kind, "per_s": found["requests_per_s"], "cpu_ms": whole, "replica_ms": inside}
                model_ms = bare if kind == "text" else 0.0
                rows.append({**row, "model_ms": model_ms, "overhead_ms": whole - model_ms, "p50_ms": found["accepted_ms"]["p50"]})
    return rows


def _child_ms(folder: Path, seconds: float) -> float:
    from _measure import child

    found = child(__file__, "single", folder, seconds)
    return 1000 * float(found["spent_s"]) / float(found["items"])


# ---- start-up, memory


def startup(folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds to ready."""
    rows = []
    for name, model in (("ViT-B/16 and BERT-base", folder / "large"), ("tiny", _tiny(folder))):
        seconds = []
        for _ in range(min(2, given.rounds)):
            with _service.start(model) as service:
                seconds.append(service.ready_s)
        rows.append({"model": name, "ready_s": statistics.median(seconds), "memory_mb": service_memory(model)})
    return rows


def service_memory(model: Path) -> float:
    """Resident memory of an idle replica."""
    with _service.start(model) as service:
        return service.memory_mb()


def memory(folder: Path, given: argparse.Namespace) -> list[dict[str, Any]]:
    """A curve of the replica's memory."""
    rows: list[dict[str, Any]] = []
    with _service.start(folder / "large") as service:
        peak = _peak(service, "images", folder, given.seconds)["requests_per_s"]
        began = time.monotonic()
        seconds = 60 * given.minutes
        images = _load.Load(service.url, rate=peak, seconds=seconds, timeout=60.0)
        texts = _load.Load(service.url, rate=0.5 * peak, seconds=seconds, timeout=60.0, seed=1)
        with (
            _load.start(images, _payload("images", folder)) as one,
            _load.start(texts, ["texts", folder / "texts.txt"], ITEMS) as other,
        ):
            while (passed := time.monotonic() - began) < seconds:
                rows.append({"minute": round(passed / 60, 1), "replica_mb": service.memory_mb(), "all_mb": service.memory_mb("")})
                time.sleep(30)
            statuses = [running.result()["by_status"] for running in (one, other)]
    return [{**row, **({"by_status": str(statuses)} if row is rows[-1] else {})} for row in rows]


# ---- in the child


def bare_images(folder: str, seconds: str) -> dict[str, Any]:
    """Decode and embed for so long; the next batch is decoded while one runs."""
    import torch

    encoder = _encoder(folder)
    files = [path.read_bytes() for path in sorted(Path(folder).glob("*.jpg"))]

    def decode(batch: list[bytes]) -> Any:
        import numpy as np

        return torch.from_numpy(np.stack([encoder.preprocess_uint8(data) for data in batch]))

    batches = itertools.cycle([files[at : at + ITEMS] for at in range(0, len(files), ITEMS)])
    with ThreadPoolExecutor(1) as pool:
        ready = pool.submit(decode, next(batches))

        def step() -> int:
            nonlocal ready
            pixels, ready = ready.result(), pool.submit(decode, next(batches))
            return len(encoder.encode_pixels(pixels))

        return _rate(step, float(seconds))


def bare_texts(folder: str, seconds: str) -> dict[str, Any]:
    """Tokenize and embed in the order of the captions, 64 at once."""
    encoder = _encoder(folder)
    batches = _text_batches(folder)
    return _rate(lambda: len(encoder.encode_texts(next(batches))), float(seconds))


def bare_padded(folder: str, seconds: str) -> dict[str, Any]:
    """As ``bare_texts``, each text padded to the whole context and computed as open_clip writes it."""
    import torch

    from biomedray.model.precision import lighten
    from biomedray.model.weights import open_folder

    half = _encoder(folder).precision == "bfloat16"
    opened = open_folder(Path(folder) / "large")
    clip: Any = opened.clip
    if half:
        lighten(clip)
    batches = _text_batches(folder)

    def step() -> int:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            return len(torch.nn.functional.normalize(clip.encode_text(opened.tokenizer(next(batches))).float(), dim=-1))

    return _rate(step, float(seconds))


def single(folder: str, seconds: str) -> dict[str, Any]:
    """CPU of encoding texts one at a time by the tiny model."""
    from biomedray.model.encoder import Encoder

    encoder = Encoder.load(str(Path(folder) / "tiny"))
    texts = itertools.cycle((Path(folder) / "texts.txt").read_text().splitlines())
    return _rate(lambda: len(encoder.encode_texts([next(texts)])), float(seconds))


def _encoder(folder: str) -> Any:
    from biomedray.model.encoder import Encoder
    from biomedray.model.malloc import keep_freed

    encoder = Encoder.load(str(Path(folder) / "large"), precision="auto")
    keep_freed()  # as the service has it
    return encoder


def _text_batches(folder: str) -> Iterator[list[str]]:
    texts = (Path(folder) / "texts.txt").read_text().splitlines()
    return itertools.cycle([texts[at : at + 64] for at in range(0, len(texts), 64)])


def _rate(step: Callable[[], int], seconds: float) -> dict[str, Any]:
    """Items a second after a first step that is not counted."""
    step()
    given = Given()
    cpu, began, items = time.process_time(), time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        items += step()
    took = (time.perf_counter() - began) * given.share()
    return {"items": items, "items_per_s": items / took, "spent_s": time.process_time() - cpu}


def _tiny(folder: Path) -> Path:
    from biomedray.model.settings import ModelConfig
    from biomedray.model.towers import initialise

    if not (folder / "tiny").exists():
        initialise(ModelConfig(name="tiny"), captions(500), folder / "tiny", seed=0)
    return folder / "tiny"


WAYS = {"images": bare_images, "texts": bare_texts, "padded": bare_padded, "single": single}
PARTS: dict[str, Callable[[Path, argparse.Namespace], list[dict[str, Any]]]] = {
    "throughput": throughput,
    "latency": latency,
    "overhead": overhead,
    "startup": startup,
    "memory": memory,
}

if __name__ == "__main__":
    main()
