"""Graphics to image files: panels drawn, letters set, encoded in the format that the name asks for."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from biomedray.corpus.draw.canvas import BLACK, WHITE, Size, font
from biomedray.corpus.kinds import all_kinds
from biomedray.corpus.plan import Graphic, Panel, Stray

JPEG_QUALITY = 88
THUMBNAIL_SIDE = 120


def render(graphic: Graphic) -> Image.Image:
    """The picture of a graphic: a function of its plan alone."""
    if len(graphic.panels) == 1 and graphic.panels[0].box == (0, 0, *graphic.size):
        return _draw(graphic.panels[0], graphic.size, graphic.seed, 0)
    page = Image.new("RGB", graphic.size, WHITE)
    for i, panel in enumerate(graphic.panels):
        x0, y0, x1, y1 = panel.box
        page.paste(_draw(panel, (x1 - x0, y1 - y0), graphic.seed, i), (x0, y0))
        _letter(page, panel, graphic)
    return page


def _draw(panel: Panel, size: Size, seed: tuple[int, ...], i: int) -> Image.Image:
    rng = np.random.default_rng([*seed, i])
    return all_kinds()[panel.kind].draw(rng, panel.attributes, size)


def _letter(page: Image.Image, panel: Panel, graphic: Graphic) -> None:
    """The panel's letter at its top left: above it, or on a white patch within."""
    draw = ImageDraw.Draw(page)
    text, face = graphic.label_style.format(p=panel.label), font(17)
    x, y = panel.box[:2]
    if graphic.label_outside:
        draw.text((x, y - 3), text, font=face, fill=BLACK, anchor="ls", stroke_width=0.5)
        return
    _, _, right, bottom = draw.textbbox((x + 4, y + 3), text, font=face, stroke_width=0.5)
    draw.rectangle([x, y, right + 3, bottom + 3], fill=WHITE)
    draw.text((x + 4, y + 3), text, font=face, fill=BLACK, stroke_width=0.5)


def encode(image: Image.Image, name: str) -> bytes:
    """The image in the format of the file's suffix."""
    buffer = io.BytesIO()
    _ENCODERS[name.rpartition(".")[2]](image, buffer)
    return buffer.getvalue()


def _flat(image: Image.Image) -> Image.Image:
    return image.quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


_ENCODERS: dict[str, Callable[[Image.Image, io.BytesIO], None]] = {
    "jpg": lambda image, buffer: image.save(buffer, "JPEG", quality=JPEG_QUALITY),
    "png": lambda image, buffer: image.save(buffer, "PNG", compress_level=6),
    "webp": lambda image, buffer: image.save(buffer, "WEBP", quality=82, method=1),
    "gif": lambda image, buffer: _flat(image).save(buffer, "GIF"),
    "tif": lambda image, buffer: image.save(buffer, "TIFF", compression="jpeg"),
}


def thumbnail(image: Image.Image) -> bytes:
    """A GIF of at most THUMBNAIL_SIDE pixels, as the packages have beside each display image."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    return encode(small, "thumbnail.gif")


def render_stray(stray: Stray) -> bytes:
    """A table or formula as a picture."""
    image = Image.new("RGB", (320, 160 if stray.container == "table-wrap" else 60), WHITE)
    draw = ImageDraw.Draw(image)
    if stray.container == "table-wrap":
        for y in range(10, 160, 28):
            draw.line([(10, y), (310, y)], fill=BLACK)
            draw.text((16, y + 6), f"Row {y}    {y * 3}    {y * 7}", font=font(14), fill=BLACK)
    else:
        draw.text((20, 18), stray.text, font=font(20), fill=BLACK)
    return encode(image, stray.file)
