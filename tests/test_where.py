"""The expressions of --where and --filter: what it selects, what it says of a missing value, what it refuses."""

from __future__ import annotations

import pyarrow as pa
import pytest

from biomedray.errors import UserError
from biomedray.records import PAIR_SCHEMA
from biomedray.where import parse

ROWS = [
    {"width": 400, "height": 300, "year": 2020, "license_group": "comm", "flags": [], "caption": "A mouse brain", "n_tokens": 3},
    {"width": 500, "height": 600, "year": None, "license_group": "noncomm", "flags": ["cmyk"], "caption": "MOUSE", "n_tokens": 1},
    {"width": 90, "height": 90, "year": 1999, "license_group": "other", "flags": ["alpha", "cmyk"], "caption": "", "n_tokens": 0},
]
ROWS = [
    row | {"lang": lang, "split": split}
    for row, lang, split in zip(ROWS, ["en", None, "de"], ["train", "val", "val"], strict=True)
]
TABLE = pa.Table.from_pylist(ROWS, pa.schema([PAIR_SCHEMA.field(name) for name in ROWS[0]]))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", [0, 1, 2]),
        ("license_group == 'comm'", [0]),
        ("min(width, height) > 299", [0, 1]),
        ("max(width, height, 450) == 450", [0, 2]),
        ("300 <= width < 450", [0]),
        ("width / height > 1.2", [0]),
        ("width - height == -100", [1]),
        ("license_group in ['comm', 'other'] and not width > 399", [2]),
        ("license_group not in ('comm',)", [1, 2]),
        ("'cmyk' in flags", [1, 2]),
        ("'cmyk' not in flags", [0]),
        ("len(flags) == 2 or year == 2020", [0, 2]),
        ("'mouse' in caption", [0]),
        ("'mouse' in lower(caption)", [0, 1]),
        ("len(caption) > 0", [0, 1]),
        ("year > 1990", [0, 2]),
        ("not year > 2000", [2]),
        ("year is None", [1]),
        ("year is not None and lang == 'de'", [2]),
        ("lang == 'en' or year is None", [0, 1]),
        ("split == 'val'", [1, 2]),
        ("1 == 1", [0, 1, 2]),
    ],
)
def test_rows(text, kept):
    where = parse(text)
    assert where.keep(TABLE).to_pylist() == [ROWS[i] for i in kept]
    assert [where.holds(row) for row in ROWS] == [i in kept for i in range(len(ROWS))]
    assert where.keep(TABLE.slice(1)).to_pylist() == [ROWS[i] for i in kept if i >= 1]
    assert where.keep(pa.concat_tables([TABLE, TABLE])).num_rows == 2 * len(kept)
    assert where.keep(TABLE.slice(0, 0)).num_rows == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour == 'red'", "no column 'colour'"),
        ("image == 'x'", "no column 'image'"),
        ("width >", "not an expression"),
        ("width", "true or false"),
        ("width + 1", "true or false"),
        ("year == '2020'", "where: year == '2020'"),
        ("__import__('os').system('true')", "no column '__import__'"),
        ("(lambda: True)()", "not understood"),
        ("width.bit_length() > 3", "not understood"),
        ("[w for w in (1,)]", "no column 'w'"),
        ("min(width) > 3", "min wants 2"),
        ("'a' in 'abc'", "'in' wants"),
        ("width is 3", "is None"),
        ("caption == b'x'", "not understood"),
        ("not width", "not true or false"),
        ("lower(width) == 'a'", "where:"),
    ],
)
def test_what_is_refused_is_one_line(text, says):
    with pytest.raises(UserError) as refused:
        parse(text)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
