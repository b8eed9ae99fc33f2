"""Encoders: what null, padding, unknown and known values become, and what is kept in the file."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from contract.encoders import NULL_CODE, OOV_CODE, PAD_CODE, Centre, Encoders, Field, Scale, Vocabulary
from contract.names import NULL_INT

IDS = Vocabulary(np.array([-5, 3, 2**62]), np.array([4, 3, 5]))
WORDS = Vocabulary(np.array(["", "a", "ü"], dtype=object), np.array([5, 3, 4]))


def make_encoders() -> Encoders:
    fields = [
        Field("item_id", "categorical", "item_id", 6),
        Field("recent", "list", "item_id", 6, length=4),
        Field("word", "categorical", "word", 6),
        Field("words", "list", "word", 6, length=2),
        Field("price", "numeric"),
        Field("vector", "embedding", length=2),
    ]
    return Encoders(
        {field.name: field for field in fields},
        {"item_id": IDS, "word": WORDS},
        {"price": Scale(mean=1.5, std=0.5, is_log=True)},
        {"vector": Centre((1.0, 0.5), 2.0)},
    )


def test_integers_keep_null_unknown_and_known_apart() -> None:
    raw = np.array([NULL_INT, 7, -5, 3, 2**62, 2**62 + 1])
    assert make_encoders().encode("item_id", raw).tolist() == [NULL_CODE, OOV_CODE, 4, 3, 5, OOV_CODE]


def test_strings_keep_null_unknown_and_known_apart() -> None:
    raw = np.array([None, np.nan, "b", "", "a", "ü"], dtype=object)
    assert make_encoders().encode("word", raw).tolist() == [NULL_CODE, NULL_CODE, OOV_CODE, 5, 3, 4]


def test_scalars_keep_their_shape() -> None:
    raw = np.array([[3, NULL_INT], [8, -5]])
    assert make_encoders().encode("item_id", raw).tolist() == [[3, NULL_CODE], [OOV_CODE, 4]]


@pytest.mark.parametrize("width", [1, 4, 9])
def test_lists_come_back_at_one_length_with_padding_at_the_end(width: int) -> None:
    raw = np.full((2, width), NULL_INT)
    raw[0, 0] = 3
    codes = make_encoders().encode("recent", raw)
    assert codes.dtype == np.int64
    assert codes.tolist() == [[3, PAD_CODE, PAD_CODE, PAD_CODE], [PAD_CODE] * 4]


def test_lists_of_strings_are_cut_at_their_end() -> None:
    raw = np.array([["a", "zz", "ü"], [None, None, None]], dtype=object)
    assert make_encoders().encode("words", raw).tolist() == [[3, OOV_CODE], [PAD_CODE, PAD_CODE]]


def test_numerics_without_a_value_or_a_logarithm_are_the_mean() -> None:
    raw = np.array([np.nan, np.inf, -1, -3, 0, np.exp(2) - 1], dtype=np.float32)
    scaled = make_encoders().encode("price", raw)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [0, 0, 0, 0, -3, 1], atol=1e-6)


def test_whole_numbers_are_numerics_too() -> None:
    scaled = Scale(mean=10, std=2).encode(np.array([NULL_INT, 10, 14]))
    np.testing.assert_array_equal(scaled, [0, 0, 2])


def test_a_constant_numeric_is_only_centred() -> None:
    np.testing.assert_array_equal(Scale(mean=4, std=0).encode(np.array([4.0, 5.0])), [0, 1])


def test_a_column_without_any_known_value_codes_null_and_unknown() -> None:
    empty = Vocabulary(np.empty(0, np.int64), np.empty(0, np.int64))
    assert empty.encode(np.array([NULL_INT, 1])).tolist() == [NULL_CODE, OOV_CODE]
    assert empty.cardinality == OOV_CODE + 1


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    words = np.array(["\0", "a\0", "b" * 5000, "\ud800", "日本"], dtype=object)
    encoders = make_encoders()
    encoders.vocabularies["word"] = Vocabulary(words, np.arange(3, 8))
    encoders.save(tmp_path / "encoders.npz")
    loaded = Encoders.load(tmp_path / "encoders.npz")
    assert loaded.fields == encoders.fields
    assert loaded.scales == encoders.scales
    vectors = np.array([[0.1, 7.0], [np.nan, 1.0]], dtype=np.float32)
    for raw, name in ((words, "word"), (np.array([3, 9, NULL_INT]), "item_id"), (vectors, "vector")):
        assert loaded.encode(name, raw).tolist() == encoders.encode(name, raw).tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["encoders.npz"]


def test_a_pickle_in_the_file_is_refused(tmp_path: Path) -> None:
    make_encoders().save(tmp_path / "encoders.npz")
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "encoders.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["header.npy"] = pickled.getvalue()
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(ValueError, match="allow_pickle"):
        Encoders.load(tmp_path / "bad.npz")


def test_few_values_have_the_codes_that_many_have() -> None:
    vocabulary = Vocabulary(np.arange(0, 100, 2), np.arange(3, 53))
    raw = np.array([*range(-3, 103), NULL_INT])
    many = vocabulary.encode(raw, null_code=PAD_CODE)
    few = [vocabulary.encode(raw[at : at + 1], null_code=PAD_CODE) for at in range(len(raw))]
    np.testing.assert_array_equal(np.concatenate(few), many)
    assert many[-1] == PAD_CODE
    assert (many == OOV_CODE).sum() == 56


def test_an_embedding_is_centred_with_a_mean_length_of_1() -> None:
    vectors = np.array([[3.0, 1.0], [-1.0, 1.0], [np.nan, np.nan]], dtype=np.float32)
    centre = Centre.of(vectors)
    assert centre == Centre((1.0, 1.0), 2.0)
    assert centre.encode(vectors).tolist() == [[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]
    assert centre.encode(np.array([[3.0, np.inf]])).tolist() == [[0.0, 0.0]]


def test_an_embedding_of_another_length_is_cut_or_null() -> None:
    centre = Centre((1.0, 1.0), 2.0)
    assert centre.encode(np.array([[3.0, 1.0, 9.0]])).tolist() == [[1.0, 0.0]]
    assert centre.encode(np.array([[3.0]])).tolist() == [[0.0, 0.0]]
    assert Centre.of(np.full((3, 2), np.nan)) == Centre((0.0, 0.0), 1.0)
    assert Centre.of(np.ones((3, 2))) == Centre((1.0, 1.0), 1.0)
