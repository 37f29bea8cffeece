"""The language of a caption: told by its words where it has enough of them, else by the XML."""

from __future__ import annotations

import pytest

from biomedray.ingest.language import caption_language, is_short

ENGLISH = "Growth of the cells in water, measured by light microscopy at three days after infection."
PORTUGUESE = "Distribuição dos indivíduos em classes de altura na área A, Parque Estadual da Cantareira, São Paulo."
GERMAN = "Wachstum der Zellen in Wasser, gemessen mit dem Lichtmikroskop drei Tage nach der Infektion."
CHINESE = "在感染后三天用光学显微镜测量的水中细胞的生长情况,比例尺为五十微米,数据为平均值。"


@pytest.mark.parametrize(
    ("text", "declared", "language"),
    [
        (ENGLISH, None, "en"),
        (ENGLISH, "pt", "en"),
        (PORTUGUESE, None, "pt"),
        (PORTUGUESE, "en", "pt"),
        (PORTUGUESE, "pt", "pt"),
        (GERMAN, None, "de"),
        (CHINESE, None, "zh"),
        ("De novo assembly of the genome from reads", None, "en"),
        ("Escherichia coli, Staphylococcus aureus, Candida albicans", "en", "en"),
        ("Figure 2", None, None),
        ("Figure 2", "fr", "fr"),
        ("5 \u00b5m", "en", "en"),
        ("", None, None),
    ],
)
def test_language(text: str, declared: str | None, language: str | None) -> None:
    assert caption_language(text, declared) == language


def test_without_detection_the_xml_alone_is_asked() -> None:
    assert caption_language(PORTUGUESE, "en", detect=False) == "en"
    assert caption_language(PORTUGUESE, None, detect=False) is None


def test_short_is_fewer_than_twenty_letters() -> None:
    assert is_short("a" * 19 + " 1234567890" * 20)
    assert not is_short("1234567890 " * 20 + "a" * 20)
    assert not is_short("\u00e9" * 20)
    assert is_short("")
