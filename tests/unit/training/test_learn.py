"""How slates are made of what was learned, and training where there is next to nothing to learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract import names
from contract.arrays import Array
from contract.bundle import RANKING, RETRIEVAL, OrderSpec
from tests.builders.datasets import own_tables, quiet, small_world, write_own
from tests.builders.encoded import encoders_of
from training.config import QualityLevel, TrainingSettings
from training.data.prepared import Prepared
from training.data.sources import catalog
from training.data.sources.synthetic import Size
from training.examples.positives import UserHistories, item_columns
from training.examples.split import held_out
from training.examples.strangers import with_strangers
from training.learn import RANKERS_ORDER, learn_slates, unfitted_order
from training.pipeline import learn
from training.progress import TrainingProgress
from training.record import recorded
from training.recording import facts_of
from training.slates.choose import choose_forms
from training.slates.new_items import NEW
from training.slates.search import reorder
from training.slates.slates import Learned, Retriever, rank_candidates
from training.slates.sources import POPULAR
from training.slates.strangers import with_orders_of_few


@pytest.mark.parametrize("minutes", [60, 5], ids="{} min between interactions".format)
def test_a_data_set_whose_users_have_seen_everything_still_trains(
    tmp_path: Path, minutes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fifteen items, all seen early: nobody finds anything new. At 5 minutes train is within a snapshot."""
    tables = own_tables()
    times = tables["interactions"]["timestamp"]
    tables["interactions"]["timestamp"] = times[0] + (times - times[0]) * (minutes / 60)
    folder = write_own(tmp_path / "books", tables)
    prepared = catalog.prepare(str(folder), tmp_path, tmp_path / "var", size=Size(), say=quiet)
    settings = TrainingSettings(quality=QualityLevel.TINY).at_quality()
    with recorded(tmp_path, facts_of("books", "train", prepared, settings)) as record:
        learned, metrics = learn(prepared, settings, TrainingProgress(), record)
    assert learned.order == unfitted_order(["popular"])
    assert learned.order.ranking == 0, "alone, the ranker's order is the weakest"
    said = " ".join(capsys.readouterr().out.split())
    assert "the ranker is not run then; SHORTLIST_ORDER_BY=ranker orders by it alone" in said
    assert min(learned.order.retrieval, learned.order.sources["popular"]) > 0
    assert metrics["test"]["users"] == 0
    assert set(metrics["sections"]) == {"ranking"}
    assert 0 < metrics["sections"]["ranking"]["DLRM"]["log_loss"] < 1


class Drawn:
    """Vectors that know nothing of users and items."""

    def encode_users(self, arrays: Mapping[str, Array]) -> Array:
        return self._drawn(arrays[names.USER_ID], 1)

    def encode_items(self, arrays: Mapping[str, Array]) -> Array:
        return self._drawn(arrays[names.ITEM_ID], 0)

    def _drawn(self, codes: Array, last: int) -> Array:
        drawn: Array = np.random.default_rng(last).normal(size=(1000, 4)).astype(np.float32)[codes]
        drawn[:, -1] = last
        return drawn


class Indifferent:
    """A ranker to whom all candidates are alike."""

    features = (names.USER_ID, names.ITEM_ID)

    def predict_candidates(self, arrays: Mapping[str, Array]) -> Array:
        return np.full(len(arrays[names.ITEM_ID]), 0.5, np.float32)


def learned_of(prepared: Prepared) -> Learned:
    encoders, model, ranker = encoders_of(prepared), Drawn(), Indifferent()
    towers: Any = model
    scores: Any = ranker
    retriever = Retriever(towers, UserHistories.of(prepared, encoders), item_columns(prepared, encoders))
    return Learned(encoders, retriever, scores, {}, OrderSpec())


def test_a_ranker_that_tells_nothing_orders_alone_where_the_owner_wants_it_and_else_not_at_all(
    tmp_path: Path,
) -> None:
    prepared = small_world(tmp_path)
    learned, fitted = learned_of(prepared), choose_forms(prepared)
    blended = learn_slates(prepared, learned, fitted, 20)
    assert RANKING not in blended.order.weighed
    by_ranker = learn_slates(prepared, learned, fitted, 20, "ranker")
    assert by_ranker.order == RANKERS_ORDER
    assert by_ranker.order.weighed == {RANKING}


def test_where_the_ranker_alone_orders_the_sources_with_a_share_still_give_candidates(
    tmp_path: Path,
) -> None:
    """The vectors know nothing, so validation lets the others find more."""
    prepared = small_world(tmp_path)
    found = learn_slates(prepared, learned_of(prepared), choose_forms(prepared), 20, "ranker")
    shares = {one.spec.name: one.spec.share for one in found.sources}
    assert shares.keys() - {NEW}
    assert min(shares.values()) > 0, "one without a share would give nothing and say nothing that counts"


def test_where_nobody_is_in_validation_the_ranker_orders_what_the_vectors_find(tmp_path: Path) -> None:
    folder = write_own(tmp_path / "books", own_tables())
    prepared = catalog.prepare(str(folder), tmp_path, tmp_path / "var", size=Size(), say=quiet)
    found = learn_slates(prepared, learned_of(prepared), choose_forms(prepared), 20, "ranker")
    assert (found.order, found.sources) == (RANKERS_ORDER, ())


def test_candidates_of_users_of_whom_nothing_is_known_are_those_of_their_order(tmp_path: Path) -> None:
    prepared = small_world(tmp_path)
    learned = learn_slates(prepared, learned_of(prepared), choose_forms(prepared), 20)
    assert learned.order.unknown is None, "everyone's order is nothing else to them"
    unknown = OrderSpec(ranking=0, sources={POPULAR: 1.0})
    learned = replace(learned, order=learned.order.model_copy(update={"unknown": unknown}))
    split = prepared.split
    held = held_out(prepared, split.validate_until, split.test_until)
    together, strangers = with_strangers(prepared, held, split.validate_until, 0)
    retriever = replace(learned.retriever, histories=UserHistories.of(together, learned.encoders))
    vectors = retriever.vectors(strangers, split.validate_until)
    asked = replace(learned, retriever=retriever)
    slates = rank_candidates(together, asked, strangers, vectors, split.validate_until, 20)
    served = reorder(slates.items, slates.served(learned.order))
    at = [one.spec.name for one in learned.sources].index(POPULAR) + 1
    np.testing.assert_array_equal(served[:, :10], slates.lists.positions[:, at, :10])


def test_strangers_of_few_items_have_orders_of_their_own_where_everyones_tells_them_nothing(
    tmp_path: Path,
) -> None:
    """The vectors know nothing: whatever else orders is better. Nothing is asked that everyone is not."""
    prepared = small_world(tmp_path)
    learned = replace(learned_of(prepared), sources=tuple(choose_forms(prepared)))
    learned = replace(learned, order=OrderSpec(ranking=0, retrieval=1))
    split = prepared.split
    held = held_out(prepared, split.train_until, split.validate_until)
    vectors = learned.retriever.vectors(held, split.train_until)
    slates = rank_candidates(prepared, learned, held, vectors, split.train_until, 60)
    order = with_orders_of_few(prepared, learned, held, slates)
    assert [(one.least, one.most) for one in order.few] == [(1, 1), (2, 3), (4, 5), (6, 10)]
    assert {name for one in order.few for name in one.order.weighed} <= {RETRIEVAL, POPULAR}
    assert order.model_copy(update={"unknown": None, "few": ()}) == learned.order
