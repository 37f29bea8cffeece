r"""What one scaled decode says of a picture: hash, entropy, colour, blank share, and two cheap guesses.

RGB pixels -+- grey ---> phash, entropy
            +- colours -> colourfulness, blankness
            \- small --+-> compound_hint: how even the best full-width or full-height cut along an empty band is
                       \-> chart_hint: light ground, few colours, long thin dark lines, little texture

The hints are for queries ("leave out what is surely a chart"), not truth; docs/reference/pairs.md says how good they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import fftpack

Grey: TypeAlias = npt.NDArray[np.int16]
Planes: TypeAlias = npt.NDArray[np.uint8]

_SMALL_SIDE = 128
_COARSE, _FINE = 8, 16
_NEAR = 12


@dataclass(frozen=True)
class Quality:
    """Columns of the pairs table; all null where nothing was decoded."""

    phash: str | None = None
    """64 bits as 16 hex digits."""
    phash_fine: str | None = None
    """256 bits as 64 hex digits."""
    entropy: float | None = None
    """Bits, 0 to 8."""
    colourfulness: float | None = None
    """Hasler and Suesstrunk 2003, M3: 0 is grey, 15 slight, 59 quite, 109 extremely colourful."""
    blankness: float | None = None
    """0 to 1."""
    compound_hint: float | None = None
    """0 to 1."""
    chart_hint: float | None = None
    """0 to 1."""


def measure(small: Image.Image, grey: Image.Image) -> Quality:
    """All columns from an 8-bit RGB picture as ``shrink`` gives it, and the same in grey (smaller ones give rougher hints).

    Hashes are taken of every second pixel's mean, which leaves at least 64 pixels a side: most of their time is scaling.
    """
    planes = _planes(small)
    phash, fine = perceptual_hashes(grey.reduce(2) if min(grey.size) >= _SMALL_SIDE else grey)
    shades = np.asarray(grey).astype(np.int16)
    turned = np.ascontiguousarray(shades.T)
    light, blank = background(planes)
    return Quality(
        phash=phash,
        phash_fine=fine,
        entropy=_rounded(entropy(grey)),
        colourfulness=_rounded(colourfulness(planes)),
        blankness=_rounded(blank),
        compound_hint=_rounded(compound_hint(shades, turned)),
        chart_hint=_rounded(chart_hint(shades, turned, light, blank)),
    )


def _rounded(value: float) -> float:
    """Four digits: what is behind them depends on the machine's arithmetic, and the same input must give the same bytes."""
    return round(value, 4)


def shrink(image: Image.Image) -> Image.Image:
    """By a whole factor (box filter), to a short side of 128 to 255 pixels: JPEG comes so, PNG and TIFF at full size."""
    factor = min(image.size) // _SMALL_SIDE
    return image.reduce(factor) if factor > 1 else image


def _planes(image: Image.Image) -> Planes:
    """Red, green and blue of every fourth pixel of every fourth row, as (3, N); all pixels of a tiny picture."""
    stride = 4 if min(image.size) >= _SMALL_SIDE else 1
    return np.ascontiguousarray(np.asarray(image)[::stride, ::stride].reshape(-1, 3).T)


def perceptual_hashes(image: Image.Image) -> tuple[str, str]:
    """DCT hashes of 64 and 256 bits in hex: alike images differ in few bits.

    Bit for bit ``imagehash.phash(image, 8, highfreq_factor=8)`` and ``imagehash.phash(image, 16)``, which scale to 64 pixels.
    """
    grey = image if image.mode == "L" else image.convert("L")
    pixels = np.asarray(grey.resize((4 * _FINE, 4 * _FINE), Image.Resampling.LANCZOS))
    low = fftpack.dct(fftpack.dct(pixels, axis=0)[:_FINE], axis=1)[:, :_FINE]
    return _bits(low[:_COARSE, :_COARSE]), _bits(low)


def _bits(low: npt.NDArray[np.float64]) -> str:
    """Which of some frequencies are above their median."""
    half = low.size // 2
    below, above = np.partition(low, (half - 1, half), axis=None)[half - 1 : half + 1]
    return np.packbits(low > (below + above) / 2).tobytes().hex()


def entropy(grey: Image.Image) -> float:
    """Shannon entropy of the 256-bin histogram of a grey picture, in bits."""
    counts = np.array(grey.histogram(), dtype=np.float64)
    shares = counts[counts > 0] / (grey.width * grey.height)
    return max(0.0, -float(shares @ np.log2(shares)))


def colourfulness(planes: Planes) -> float:
    """M3 of Hasler and Suesstrunk, "Measuring colourfulness in natural images" (2003): rg = R - G, yb = (R + G) / 2 - B."""
    shifted = planes.astype(np.float32) - 128
    mean = shifted.mean(axis=1, dtype=np.float64)
    spread = (shifted @ shifted.T).astype(np.float64) / shifted.shape[1] - np.outer(mean, mean)
    axes = np.array([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    variance = float(np.trace(axes @ spread @ axes.T))
    return float(np.sqrt(max(variance, 0.0)) + 0.3 * np.hypot(*(axes @ mean)))


def background(planes: Planes) -> tuple[float, float]:
    """How light the commonest colour is (its lowest band, 0 to 1), and the share of pixels within 12 levels of it.

    The commonest colour is the mean of the fullest of 4,096 bins.
    """
    red, green, blue = planes >> 4
    bins = red * np.uint16(256) + (green << 4 | blue)
    fullest = np.bincount(bins, minlength=4096).argmax()
    ground = planes[:, bins == fullest].mean(axis=1)
    low, high = np.ceil(ground - _NEAR).clip(0).astype(np.uint8), np.floor(ground + _NEAR).clip(max=255).astype(np.uint8)
    near = ((planes >= low[:, None]) & (planes <= high[:, None])).all(axis=0)
    return float(ground.min()) / 255, float(near.mean())


# ---- guesses. Weights: logistic regression on half of a generated corpus and half of 707 real figures whose captions
# ---- name panels or kinds of picture; benchmarks/ingest_quality.py measures them.

_EMPTY_RANGE = 16
_EDGE = 24
_THIN = 40


def compound_hint(grey: Grey, turned: Grey) -> float:
    """How much a grey picture (H, W; and turned, W, H) looks like panels: even cuts along empty bands, long straight seams."""
    even = max(_best_cut(grey), _best_cut(turned))
    seam = max(_longest_seam(grey), _longest_seam(turned))
    return _logistic(-4.4 + 4.05 * even + 2.4 * seam)


def _best_cut(grey: Grey) -> float:
    """Over the empty full-height bands: the smaller part's width over the larger one's, for the evenest cut; 0 without one."""
    content = (grey.max(axis=0) - grey.min(axis=0)) > _EMPTY_RANGE
    edges = np.flatnonzero(np.diff(content, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    if len(starts) < 2:
        return 0.0
    left, right = ends[:-1] - starts[0], ends[-1] - starts[1:]
    return float((np.minimum(left, right) / np.maximum(left, right)).max())


def _longest_seam(grey: Grey) -> float:
    """Share of the height along which the strongest straight vertical edge runs, an eighth off the borders."""
    margin = grey.shape[1] // 8
    inner = grey[:, margin : grey.shape[1] - margin]
    if inner.shape[1] < 2:
        return 0.0
    steps = np.abs(inner[:, 1:] - inner[:, :-1]) > _EDGE
    return int(_counts(steps, 0).max()) / len(steps)


def _counts(found: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.uint32]:
    """How many are true; numpy's own count along an axis takes twice the time."""
    counts: npt.NDArray[np.uint32] = found.view(np.uint8).sum(axis=axis, dtype=np.uint32)
    return counts


def chart_hint(grey: Grey, turned: Grey, light: float, blank: float) -> float:
    """How much a grey picture (H, W; and turned, W, H) looks like a plot; ``light`` and ``blank`` are from ``background``."""
    middle = np.count_nonzero((grey > 60) & (grey < 200)) / grey.size
    lines = min(_thin_lines(grey), _thin_lines(turned))
    return _logistic(-3.5 + 1.6 * light + 2.5 * blank - 1.65 * middle + 2.4 * lines)


def _thin_lines(grey: Grey) -> float:
    """Share of the width that the longest thin dark horizontal line covers: darker than what is two pixels above and below."""
    if grey.shape[0] < 5:
        return 0.0
    thin = grey[2:-2] + _THIN < np.minimum(grey[:-4], grey[4:])
    counts = _counts(thin[1:] | thin[:-1], 1)
    return float(counts.max(initial=0) / grey.shape[1])


def _logistic(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))
