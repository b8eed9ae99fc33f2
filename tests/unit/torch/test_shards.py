"""Shards give the examples that training makes in memory, in batches that no rank and no restart changes."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from bench.shards.log import catalogue_of_log, encoders_of_log, piece_of_log
from contract import names
from contract.encoders import OOV_CODE, PAD_CODE, Encoders
from tests.builders.full_disk import files_up_to
from training.examples.positives import RetrievalExamples
from training.retrieval.config import DrawingConfig
from training.retrieval.sampling import drawing_chances, newcomer_chances
from training.shards.cut import send_examples
from training.shards.layout import HEADER_FILE, ROWS, ShardError, just_before
from training.shards.pack import pack
from training.shards.read import ExampleShards, ShardBatch
from training.shards.wire import WireError, receive

CONFIG = DrawingConfig()
LANES, BLOCK = 4, 64
RECENT = (names.USER_RECENT_ITEM_IDS, names.USER_RECENT_POSITIVE_ITEM_IDS)


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return encoders_of_log(users=200, items=60, length=5)


@pytest.fixture(scope="module")
def examples(encoders: Encoders) -> RetrievalExamples:
    return piece_of_log(encoders, range(200), events=20)


def cut(encoders: Encoders, *pieces: RetrievalExamples) -> bytes:
    """Gives what goes through the pipe."""
    pipe = io.BytesIO()
    catalogue = catalogue_of_log(encoders)
    send_examples(pipe, "log", encoders, catalogue, pieces, block_rows=BLOCK, lanes=LANES, seed=0)
    return pipe.getvalue()


def written(pipe: bytes, address: str | Path) -> None:
    pack(receive(io.BytesIO(pipe)), str(address))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, encoders: Encoders, examples: RetrievalExamples) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "log"
    written(cut(encoders, examples), str(folder))
    return folder


@pytest.fixture(scope="module")
def shards(folder: Path) -> ExampleShards:
    return ExampleShards.open(str(folder))


def first(batches: Iterator[ShardBatch], count: int) -> list[ShardBatch]:
    return list(itertools.islice(batches, count))


def assert_same(one: ShardBatch, other: ShardBatch) -> None:
    np.testing.assert_array_equal(one.rows, other.rows)
    assert one.columns.keys() == other.columns.keys()
    for name, values in one.columns.items():
        np.testing.assert_array_equal(values, other.columns[name], err_msg=name)


def test_a_pass_gives_every_example_once_as_it_is_in_memory(
    shards: ExampleShards, examples: RetrievalExamples
) -> None:
    blocks = list(shards.blocks())
    rows = np.concatenate([block["row"] for block in blocks])
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(examples)))
    for block in blocks:
        for is_fresh in (False, True):
            expected = examples.batch(block["row"], np.full(len(block["row"]), is_fresh))
            for name, values in expected.items():
                stored = block[just_before(name) if is_fresh and name in RECENT else name]
                assert stored.dtype == values.dtype
                np.testing.assert_array_equal(stored, values, err_msg=name)


def test_facts_catalogue_and_fields_are_those_in_memory(
    shards: ExampleShards, examples: RetrievalExamples, encoders: Encoders
) -> None:
    assert dict(shards.fields) == encoders.fields
    np.testing.assert_array_equal(drawing_chances(shards.facts, CONFIG), drawing_chances(examples, CONFIG))
    assert (shards.facts.matrix() != examples.matrix()).nnz == 0
    for name, values in catalogue_of_log(encoders).items():
        np.testing.assert_array_equal(shards.catalogue[name], values)


def test_the_rows_of_batches_are_those_in_memory(shards: ExampleShards, examples: RetrievalExamples) -> None:
    for share in (0.0, 1.0):
        for batch in first(shards.batches(64, config=CONFIG, seed=1, fresh_share=share), 3):
            expected = examples.batch(batch.rows, np.full(64, share == 1.0))
            expected[names.ITEM_ID] = shards.catalogue[names.ITEM_ID][examples.items[batch.rows]]
            for name, values in expected.items():
                np.testing.assert_array_equal(batch.columns[name], values, err_msg=name)


def test_the_withheld_stand_last_and_nothing_is_told_of_them(
    shards: ExampleShards, examples: RetrievalExamples
) -> None:
    batch = next(shards.batches(64, config=CONFIG, seed=1, withheld_share=0.25))
    known, withheld = batch.columns[names.USER_ID][:48], batch.columns[names.USER_ID][48:]
    assert (known != OOV_CODE).all()
    assert (withheld == OOV_CODE).all()
    assert (batch.columns[RECENT[0]][48:] == PAD_CODE).all()
    assert (examples.is_timed & examples.is_target)[batch.rows[48:]].all()


def test_dropped_users_lack_their_id_alone(shards: ExampleShards, examples: RetrievalExamples) -> None:
    batch = next(shards.batches(64, config=CONFIG, seed=1, user_dropout=0.5))
    expected = examples.batch(batch.rows, np.zeros(64, np.bool_))
    is_dropped = batch.columns[names.USER_ID] == OOV_CODE
    assert 16 < is_dropped.sum() < 48
    np.testing.assert_array_equal(
        batch.columns[names.USER_ID][~is_dropped], expected[names.USER_ID][~is_dropped]
    )
    np.testing.assert_array_equal(batch.columns[RECENT[0]], expected[RECENT[0]])


def test_examples_are_drawn_as_often_as_their_weight_says(
    shards: ExampleShards, examples: RetrievalExamples
) -> None:
    drawn = first(shards.batches(64, config=CONFIG, seed=2, withheld_share=0.25), 2_000)
    rows = np.stack([batch.rows for batch in drawn])
    chances = drawing_chances(examples, CONFIG)
    for part, expected in ((rows[:, :48], chances), (rows[:, 48:], newcomer_chances(examples, chances))):
        by_item = np.bincount(examples.items[part.ravel()], minlength=60) / part.size
        due = np.bincount(examples.items, expected, 60)
        assert np.abs(by_item - due).sum() < 0.03
    known, newcomers = shards.item_shares(CONFIG)
    np.testing.assert_allclose(known, np.bincount(examples.items, chances, 60))
    np.testing.assert_allclose(
        newcomers, np.bincount(examples.items, newcomer_chances(examples, chances), 60), atol=1e-15
    )


def test_a_restart_goes_on_with_the_same_batches(folder: Path, shards: ExampleShards) -> None:
    whole = first(shards.batches(64, config=CONFIG, seed=3, withheld_share=0.1, fresh_share=0.5), 90)
    for start in (1, 17, 64, 89):  # an epoch is some 62 batches
        again = ExampleShards.open(str(folder)).batches(
            64, config=CONFIG, seed=3, start=start, withheld_share=0.1, fresh_share=0.5
        )
        assert_same(next(again), whole[start])


def test_a_seed_gives_its_own_order_and_each_epoch_another(shards: ExampleShards) -> None:
    one, same, other = (
        first(shards.batches(64, config=CONFIG, seed=seed), 1)[0].rows.tolist() for seed in (4, 4, 5)
    )
    assert one == same
    assert one != other
    later = next(shards.batches(64, config=CONFIG, seed=4, start=64)).rows.tolist()
    assert one != later


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_together_see_what_one_alone_sees(shards: ExampleShards, ranks: int) -> None:
    alone = first(shards.batches(64, config=CONFIG, seed=6), 70)
    each = [
        first(shards.batches(64, config=CONFIG, seed=6, rank=rank, ranks=ranks), 70) for rank in range(ranks)
    ]
    for batch, *parts in zip(alone, *each, strict=True):
        assert [len(part.rows) for part in parts] == [64 // ranks] * ranks
        np.testing.assert_array_equal(np.concatenate([part.rows for part in parts]), batch.rows)


def test_pieces_of_a_log_are_as_one(tmp_path: Path, encoders: Encoders) -> None:
    pieces = [piece_of_log(encoders, users, events=20) for users in (range(90), range(90, 200))]
    written(cut(encoders, *pieces), str(tmp_path / "log"))
    shards = ExampleShards.open(str(tmp_path / "log"))
    rows = np.concatenate([block["row"] for block in shards.blocks()])
    np.testing.assert_array_equal(np.sort(rows), np.arange(sum(map(len, pieces))))
    np.testing.assert_array_equal(shards.facts.items, np.concatenate([piece.items for piece in pieces]))
    assert shards.facts.users.max() == 199
    last = np.arange(len(pieces[0]), len(rows))
    found = {
        int(row): user
        for block in shards.blocks()
        for row, user in zip(block["row"], block["user_id"], strict=True)
    }
    expected = pieces[1].batch(np.arange(len(pieces[1])), np.zeros(len(pieces[1]), np.bool_))["user_id"]
    assert [found[row] for row in last.tolist()] == expected.tolist()


def test_an_address_has_what_a_folder_has(
    shards: ExampleShards, encoders: Encoders, examples: RetrievalExamples
) -> None:
    written(cut(encoders, examples), "memory://far/log")
    far = ExampleShards.open("memory://far/log")
    for ours, theirs in zip(
        first(shards.batches(64, config=CONFIG, seed=7), 70),
        first(far.batches(64, config=CONFIG, seed=7), 70),
        strict=True,
    ):
        assert_same(ours, theirs)
    with pytest.raises(ShardError, match="has shards already"):
        written(cut(encoders, examples), "memory://far/log")


def test_an_address_keeps_nothing_of_what_broke(encoders: Encoders, examples: RetrievalExamples) -> None:
    whole = cut(encoders, examples)
    with pytest.raises(WireError, match="ended early"):
        written(whole[: len(whole) // 2], "memory://broken/log")
    assert not fsspec.filesystem("memory").exists("/broken/log")


def test_a_broken_pipe_leaves_the_shards_that_were_there(
    tmp_path: Path, encoders: Encoders, examples: RetrievalExamples
) -> None:
    whole = cut(encoders, examples)
    written(whole, str(tmp_path / "log"))
    with pytest.raises(WireError):
        written(whole[:-9], str(tmp_path / "log"))
    assert [file.name for file in tmp_path.iterdir()] == ["log"]
    assert len(ExampleShards.open(str(tmp_path / "log"))) == len(examples)


def test_a_full_disk_leaves_the_shards_that_were_there(
    tmp_path: Path, encoders: Encoders, examples: RetrievalExamples
) -> None:
    written(cut(encoders, examples), tmp_path / "log")
    with files_up_to(20_000), pytest.raises(ShardError, match="nothing half-written is left: make room"):
        written(cut(encoders, examples), tmp_path / "log")
    assert [file.name for file in tmp_path.iterdir()] == ["log"]
    assert len(list(ExampleShards.open(str(tmp_path / "log")).blocks())) > 0


def test_ranks_and_batches_that_fit_no_lanes_are_refused(shards: ExampleShards) -> None:
    with pytest.raises(ShardError, match="3 ranks do not fit shards of 4 lanes: take 1, 2, 4"):
        shards.batches(64, config=CONFIG, seed=0, ranks=3)
    with pytest.raises(ShardError, match="a batch of 65 does not fit 4 lanes: take 64"):
        shards.batches(65, config=CONFIG, seed=0)


def test_a_damaged_shard_is_named(tmp_path: Path, encoders: Encoders, examples: RetrievalExamples) -> None:
    written(cut(encoders, examples), str(tmp_path / "log"))
    shards = ExampleShards.open(str(tmp_path / "log"))
    file = next((tmp_path / "log" / ROWS).glob("*.mds"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    with pytest.raises(ShardError, match=rf"{file.name} is damaged.*write the shards anew"):
        next(shards.batches(64, config=CONFIG, seed=0))
    file.unlink()
    with pytest.raises(ShardError, match=f"there is no {ROWS}/{file.name}"):
        next(shards.blocks())
    (tmp_path / "log" / HEADER_FILE).write_text("{}")
    with pytest.raises(ShardError, match="damaged, or of another version"):
        ExampleShards.open(str(tmp_path / "log"))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("memory://nowhere", "there is no header.json, and so no shards; write them"),
        ("/nowhere/log", "there is no header.json, and so no shards; write them"),
        ("nonsense://log", "is not reached: Protocol not known: nonsense"),
        ("http://127.0.0.1:9/log", "is not reached: Cannot connect"),
    ],
)
def test_an_address_without_shards_is_told_in_one_line(address: str, said: str) -> None:
    with pytest.raises(ShardError, match=said) as raised:
        ExampleShards.open(address)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("address", "package"), [("s3://bucket/log", "s3fs"), ("gs://bucket/log", "gcsfs")])
def test_an_address_whose_package_is_not_there_names_it_and_how_it_is_brought(
    monkeypatch: pytest.MonkeyPatch, address: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ShardError, match=f"is not reached: .*nstall {package} .*: `.*uv pip install "):
        ExampleShards.open(address)


def test_a_folder_of_something_else_is_not_replaced(
    tmp_path: Path, encoders: Encoders, examples: RetrievalExamples
) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(ShardError, match="holds something that is no shards"):
        written(cut(encoders, examples), str(tmp_path))
    assert (tmp_path / "letters.txt").read_text() == "dear"
