r"""A copy that everybody can read of a picture that only some can: TIFF, BMP, deep grey, CMYK, real transparency.

header --readable everywhere--> None
      \-> pixels at full size --drawing of at most 4 megapixels--> PNG
                             \-> photograph, large, was a JPEG ---> JPEG, quality 95, no chroma subsampling
"""

from __future__ import annotations

import io

from PIL import Image, ImageChops

from biomedray.pixels import Header, PixelError, decode

# Browsers don't show TIFF, open_clip's reader takes no BMP; GIF and WebP are read by all.
_FOREIGN_FORMATS = {"TIFF", "BMP"}
_PLAIN_MODES = {"1", "L", "P", "RGB", "RGBA", "LA", "PA"}
_PROBE_SIDE = 1024
# Photographs take 1.2 to 2.5 bytes a pixel as PNG, drawings far below one.
_PHOTO_BYTES = 1.0
_MAX_JPEG_SIDE = 65_500
# PNG takes ten times as long as JPEG: seconds for a large picture.
_MAX_PNG_PIXELS = 4_000_000
# A quarter of the time of the usual 6, a tenth more bytes.
_PNG_LEVEL = 3


def decodable_copy(data: bytes, header: Header, pixels: Image.Image | None, max_pixels: int) -> bytes | None:
    """The picture as ``pixels.decode`` shows it, at full size, as PNG or JPEG; the same bytes give the same copy.

    ``pixels`` is the picture where it was decoded already, perhaps at a smaller scale. None where the original
    will do or nothing decodes.
    """
    foreign = header.format in _FOREIGN_FORMATS or header.mode not in _PLAIN_MODES
    if not foreign and not header.alpha:
        return None
    plain = None if foreign else _without_alpha(data, header)
    if not foreign and plain is None:
        return None
    try:
        full = _full_size(data, header, pixels, max_pixels)
    except PixelError:
        return None
    if plain is not None and ImageChops.difference(plain, full).getbbox() is None:
        return None
    return _encode(full, lossy=header.format == "JPEG")


def _full_size(data: bytes, header: Header, pixels: Image.Image | None, max_pixels: int) -> Image.Image:
    if pixels is not None and sorted(pixels.size) == sorted((header.width, header.height)):
        return pixels
    return decode(data, None, max_pixels)[0]


def _without_alpha(data: bytes, header: Header) -> Image.Image | None:
    """What a reader sees that drops transparency, as most do; None where nothing is transparent, or a strict one sees nothing."""
    try:
        with Image.open(io.BytesIO(data), formats=(header.format,)) as image:
            layer = image.convert("RGBA") if image.mode != "RGBA" else image
            lowest = layer.getchannel("A").getextrema()[0]
            return None if lowest == 255 or header.orientation != 1 else image.convert("RGB")
    except Exception:  # noqa: BLE001  # what a decoder raises on damaged bytes is no concern here: others will fail as well
        return None


def _grey_if_grey(picture: Image.Image) -> Image.Image:
    red, green, blue = picture.split()
    equal = all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue))
    return red if equal else picture


def _encode(picture: Image.Image, lossy: bool) -> bytes:
    small = picture.width * picture.height <= _MAX_PNG_PIXELS
    picture = _grey_if_grey(picture) if small else picture
    if max(picture.size) <= _MAX_JPEG_SIDE and (lossy or not small or _is_photo(picture)):
        return _saved(picture, "JPEG", quality=95, subsampling=0)
    return _saved(picture, "PNG", compress_level=_PNG_LEVEL)


def _is_photo(picture: Image.Image) -> bool:
    """By how badly its middle compresses: one megapixel tells, whatever the size of the whole."""
    width, height = min(picture.width, _PROBE_SIDE), min(picture.height, _PROBE_SIDE)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    probe = picture.crop((left, top, left + width, top + height))
    return width * height > 10_000 and len(_saved(probe, "PNG", compress_level=1)) > _PHOTO_BYTES * width * height


def _saved(picture: Image.Image, kind: str, **options: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()
