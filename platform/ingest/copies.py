r"""A copy that everybody can read of a picture that only some can: TIFF, BMP, deep grey, CMYK, real transparency.

header --readable everywhere--> None
      \-> pixels at full size --drawing of at most 4 megapixels--> PNG
                             \-> photograph, large, was a JPEG ---> JPEG, quality 95, no chroma subsampling
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops

from biomedray.pixels import Header, PixelError, decode

# Browsers don't show TIFF, open_clip's reader takes no BMP; GIF and WebP are read by all.
_FOREIGN_FORMATS = {"TIFF", "BMP"}
_PLAIN_MODES = {"1", "L", "P", "RGB", "RGBA", "LA", "PA"}
_PROBE_SIDE = 1024
# Below this a picture stays PNG; up to the other it is its own probe.
_SMALL, _WHOLE = 10_000, 2 * _PROBE_SIDE**2
# Photographs take 1.2 to 2.5 bytes a pixel as PNG, drawings far below one.
_PHOTO_BYTES = 1.0
_MAX_JPEG_SIDE = 65_500
# PNG takes ten times as long as JPEG: seconds for a large picture.
_MAX_PNG_PIXELS = 4_000_000
# A quarter of the time of the usual 6, a tenth more bytes.
_PNG_LEVEL = 3


@dataclass(frozen=True)
class Looked:
    """A picture that was decoded already: ``pixels`` perhaps at a smaller scale, and what was found on the way."""

    header: Header
    pixels: Image.Image
    flags: Sequence[str]


def decodable_copy(data: bytes, looked: Looked, max_pixels: int) -> bytes | None:
    """The picture as ``pixels.decode`` shows it, at full size, as PNG or JPEG; the same bytes give the same copy.

    None where the original will do or nothing decodes.
    """
    header = looked.header
    foreign = header.format in _FOREIGN_FORMATS or header.mode not in _PLAIN_MODES
    if not foreign and "transparent" not in looked.flags:
        return None
    try:
        full = _full_size(data, looked, max_pixels)
    except PixelError:
        return None
    return _encode(full, lossy=header.format == "JPEG")


def _full_size(data: bytes, looked: Looked, max_pixels: int) -> Image.Image:
    if sorted(looked.pixels.size) == sorted((looked.header.width, looked.header.height)):
        return looked.pixels
    return decode(data, None, max_pixels)[0]


def _grey_if_grey(picture: Image.Image) -> Image.Image:
    red, green, blue = picture.split()
    equal = all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue))
    return red if equal else picture


def _encode(picture: Image.Image, lossy: bool) -> bytes:
    jpeg = max(picture.size) <= _MAX_JPEG_SIDE
    if jpeg and (lossy or _area(picture) > _MAX_PNG_PIXELS):
        return _as_jpeg(picture)
    picture = _grey_if_grey(picture) if _area(picture) <= _MAX_PNG_PIXELS else picture
    if not jpeg or _area(picture) <= _SMALL:
        return _as_png(picture, _PNG_LEVEL)
    # A picture not much larger than a probe of it is encoded at once.
    probe = picture if _area(picture) <= _WHOLE else _middle(picture)
    encoded = _as_png(probe, _PNG_LEVEL if probe is picture else 1)
    if len(encoded) > _PHOTO_BYTES * _area(probe):
        return _as_jpeg(picture)
    return encoded if probe is picture else _as_png(picture, _PNG_LEVEL)


def _area(picture: Image.Image) -> int:
    return picture.width * picture.height


def _middle(picture: Image.Image) -> Image.Image:
    """One megapixel tells how badly a picture compresses, whatever the size of the whole."""
    width, height = min(picture.width, _PROBE_SIDE), min(picture.height, _PROBE_SIDE)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _as_jpeg(picture: Image.Image) -> bytes:
    return _saved(picture, "JPEG", quality=95, subsampling=0)


def _as_png(picture: Image.Image, level: int) -> bytes:
    return _saved(picture, "PNG", compress_level=level)


def _saved(picture: Image.Image, kind: str, **options: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()
