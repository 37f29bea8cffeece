"""Manifests, atomic writes and who may write into an output folder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomedray.artifacts import (
    Manifest,
    atomic_path,
    claim_output,
    fingerprint,
    is_finished,
    read_manifest,
    write_atomic,
    write_manifest,
)
from biomedray.errors import UserError


def test_round_trip_and_the_end_of_a_claim(tmp_path):
    out = tmp_path / "a"
    assert claim_output(out, "pairs", {"x": 1}) is False
    assert not is_finished(out)
    write_manifest(out, Manifest(kind="pairs", name="a", counts={"pairs": 3}))
    assert read_manifest(out, "pairs").counts == {"pairs": 3}
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json"]


def test_same_configuration_resumes_another_is_refused(tmp_path):
    out = tmp_path / "a"
    claim_output(out, "pairs", {"x": 1})
    (out / "part").write_text("half")
    assert claim_output(out, "pairs", {"x": 1}) is True
    with pytest.raises(UserError, match="another run"):
        claim_output(out, "pairs", {"x": 2})
    with pytest.raises(UserError, match="another run"):
        claim_output(out, "model", {"x": 1})


def test_finished_foreign_and_file_are_refused_and_left_alone(tmp_path):
    out = tmp_path / "a"
    write_manifest(out, Manifest(kind="pairs", name="a"))
    with pytest.raises(UserError, match="finished pairs"):
        claim_output(out, "pairs", {})
    foreign = tmp_path / "b"
    foreign.mkdir()
    (foreign / "thesis.doc").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        claim_output(foreign, "pairs", {})
    assert [p.name for p in foreign.iterdir()] == ["thesis.doc"]
    with pytest.raises(UserError, match="a file is in the way"):
        claim_output(foreign / "thesis.doc", "pairs", {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no manifest.json"),
        ("{", "damaged"),
        ('{"kind": 1}', "damaged"),
        ('{"kind": "model", "name": "m"}', "a pairs artifact is wanted"),
        ('{"kind": "index", "name": "i"}', "an index artifact, but a pairs artifact is wanted"),
    ],
)
def test_reading_what_is_no_such_artifact_says_why(tmp_path, content, message):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path, "pairs")


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_manifest(tmp_path / "nowhere")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "f"
    write_atomic(path, "old")

    def interrupted() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_fingerprint_does_not_depend_on_order(values):
    assert fingerprint(values) == fingerprint(dict(reversed(values.items())))
