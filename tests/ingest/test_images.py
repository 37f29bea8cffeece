"""From an href to a file, and from a file to a picture or a reason."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from biomedray.ingest.images import ImageError, Media, inspect_image, load, raster_stem
from biomedray.ingest.settings import IngestConfig
from biomedray.pixels import PixelError
from biomedray.records import Reason

CONFIG = IngestConfig()


def _media(names: list[str], base: str = "") -> Media:
    return Media(frozenset(names), lambda name: name.encode(), base)


@pytest.mark.parametrize(
    ("href", "names", "best"),
    [
        ("f1.jpg", ["f1.gif", "f1.jpg"], "f1.jpg"),
        ("f1", ["f1.gif", "f1.tif", "f1.png", "f1.jpg"], "f1.jpg"),
        ("f1.tif", ["f1.jpg", "f1.tif"], "f1.tif"),
        ("f1.tif", ["f1.jpg"], "f1.jpg"),
        ("JCB9806103.f1", ["JCB9806103.f1.gif", "JCB9806103.jpg"], "JCB9806103.f1.gif"),
        ("pone.0038869.g001", ["pone.0038869.g001.tif"], "pone.0038869.g001.tif"),
        ("F1.JPG", ["f1.jpg"], "f1.jpg"),
        ("f1.jpg", ["F1.jpg", "f1.jpg"], "f1.jpg"),
        ("images/f1.png", ["images/f1.png", "f1.png"], "images/f1.png"),
        ("./f1.png", ["f1.png"], "f1.png"),
        ("../f1.png", ["f1.png"], "f1.png"),
        ("a%20b.png", ["a b.png"], "a b.png"),
        ("a%20b.png", ["a%20b.png", "a b.png"], "a%20b.png"),
        ("caf\u00e9.png", ["cafe\u0301.png"], "cafe\u0301.png"),
        ("https://example.org/x/f1.jpg", ["f1.jpg"], "f1.jpg"),
        ("/etc/f1.jpg", ["f1.jpg"], "f1.jpg"),
        ("f1.webp", ["f1.webp"], "f1.webp"),
    ],
)
def test_best_candidate(href: str, names: list[str], best: str) -> None:
    assert _media(names).candidates(href)[0] == best


@pytest.mark.parametrize("href", ["f2.jpg", "f", "", ".", "..", "images/"])
def test_no_candidate(href: str) -> None:
    assert not _media(["f1.jpg"]).candidates(href)


def test_hrefs_start_from_the_folder_of_the_xml() -> None:
    media = _media(["a/f1.jpg", "b/f1.jpg"], base="b")
    assert media.candidates("f1.jpg")[0] == "b/f1.jpg"
    assert media.candidates("../a/f1.jpg")[0] == "a/f1.jpg"


@given(st.text(max_size=30))
def test_any_href_is_answered_from_the_tree(href: str) -> None:
    names = ["f1.jpg", "a/f2.png"]
    assert set(_media(names).candidates(href)) <= set(names)


def test_only_known_suffixes_are_cut() -> None:
    assert raster_stem("JCB9806103.f1") == "JCB9806103.f1"
    assert raster_stem("a.JPG") == "a"
    assert raster_stem(".jpg") == ".jpg"


def test_a_damaged_first_choice_gives_way(make: SimpleNamespace) -> None:
    media = make.media_of({"f1.jpg": b"\xff\xd8\xff garbage", "f1.png": make.picture("png")})
    assert load(media, "f1", CONFIG).name == "f1.png"


def test_thumbnail_gives_way_to_the_figure_and_is_never_one(make: SimpleNamespace) -> None:
    thumb = make.picture("gif", (100, 60))
    assert load(make.media_of({"f1.gif": thumb, "f1.jpg": make.picture()}), "f1.gif", CONFIG).name == "f1.jpg"
    with pytest.raises(ImageError) as caught:
        load(make.media_of({"f1.gif": thumb}), "f1", CONFIG)
    assert caught.value.reason is Reason.THUMBNAIL_ONLY
    assert load(make.media_of({"f1.gif": make.picture("gif", (200, 60))}), "f1", CONFIG).format == "gif"


def _solid(size: tuple[int, int], kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "white").save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY_IMAGE),
        (_solid((1, 1)), Reason.BLANK_IMAGE),
        (_solid((90, 1)), Reason.BLANK_IMAGE),
        (_solid((90, 90)), Reason.BLANK_IMAGE),
        (_solid((900, 900), "JPEG"), Reason.BLANK_IMAGE),
        (b"%PDF-1.4", Reason.UNSUPPORTED_FORMAT),
        (b"%!PS-Adobe", Reason.UNSUPPORTED_FORMAT),
        (b"<html>404</html>", Reason.UNSUPPORTED_FORMAT),
        (b"\xff\xd8\xff\xe0 no more", Reason.UNSUPPORTED_FORMAT),
    ],
)
def test_what_is_no_picture(data: bytes, reason: Reason) -> None:
    with pytest.raises(PixelError) as caught:
        inspect_image("f1.jpg", data, CONFIG)
    assert caught.value.reason in (reason, Reason.UNDECODABLE)
    assert caught.value.reason is reason or data.startswith(b"\xff\xd8")


def test_large_images_are_refused_by_their_header(make: SimpleNamespace) -> None:
    with pytest.raises(PixelError) as caught:
        inspect_image("f1.jpg", make.picture(), IngestConfig(max_pixels=100))
    assert caught.value.reason is Reason.IMAGE_TOO_LARGE


def test_original_bytes_and_facts_are_kept(make: SimpleNamespace) -> None:
    data = make.picture("png", (60, 40))
    image = inspect_image("f1.jpg", data, CONFIG)
    assert image.data == data
    assert (image.format, image.width, image.height) == ("png", 60, 40)
    assert image.flags == ("format_mismatch",)
    assert len(image.quality.phash or "") == 16


def test_truncated_image_is_kept_with_a_flag(make: SimpleNamespace) -> None:
    data = make.picture("jpg", (640, 480))
    assert "truncated" in inspect_image("f1.jpg", data[: len(data) // 2], CONFIG).flags


def test_perceptual_hash_survives_scaling() -> None:
    gradient = Image.linear_gradient("L").resize((512, 512)).rotate(30)
    hashes = []
    for side in (512, 300):
        out = io.BytesIO()
        gradient.resize((side, side)).save(out, "JPEG")
        hashes.append(int(inspect_image("g.jpg", out.getvalue(), CONFIG).quality.phash or "", 16))
    assert (hashes[0] ^ hashes[1]).bit_count() <= 6


def test_names_without_bytes_and_large_and_unsafe_ones(make: SimpleNamespace) -> None:
    cases = {"names": Reason.UNSUPPORTED_FORMAT, "large": Reason.IMAGE_TOO_LARGE, "unsafe": Reason.UNSAFE_MEMBER}
    for kind, reason in cases.items():
        extra = {} if kind == "names" else {kind: frozenset(["f1.pdf"])}
        media = Media(frozenset(["f1.pdf"]), {}.__getitem__, **extra)
        with pytest.raises(ImageError) as caught:
            load(media, "f1.pdf", CONFIG)
        assert caught.value.reason is reason
