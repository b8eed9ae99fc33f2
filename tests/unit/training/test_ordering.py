"""How a slate's order follows from the two models' scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit

from contract.arrays import Floats
from contract.bundle import Correction, FewOrder, OrderSpec
from contract.names import NULL_INT
from contract.ordering import known_items, log_odds, order_scores, unranked_scores
from training.metrics.lists import ndcg_at
from training.ranking.judged import Judged
from training.ranking.ordering import FEWEST_CLICKS, fit_ordering, order_of_few, order_of_unknown


def draw(weights: OrderSpec, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws scores of both models, and clicks with the chance that `weights` gives them."""
    rng = np.random.default_rng(seed)
    ranking = expit(rng.normal(-1, 1, rows)).astype(np.float32)
    retrieval = rng.uniform(-0.2, 1, rows).astype(np.float32)
    chance = expit(weights.ranking * logit(ranking) + weights.retrieval * retrieval + weights.intercept)
    return ranking, retrieval, rng.random(rows) < chance


def test_the_default_is_the_rankers_probability_itself() -> None:
    ranking, retrieval, _ = draw(OrderSpec(), 100)
    np.testing.assert_allclose(order_scores(ranking, retrieval, OrderSpec()), ranking, atol=1e-6)


def test_it_says_what_it_weighs_in_one_short_line() -> None:
    order = OrderSpec(ranking=0.51234567, sources={"popular": 18.0}, columns={"item_age": 0.1})
    assert str(order) == "weighs ranking 0.512, retrieval 0, popular 18; 0 corrections, 1 columns"


def test_scores_stay_probabilities_where_the_ranker_is_certain_and_the_tail_is_padded() -> None:
    ranking = np.array([0, 1, 0.5], dtype=np.float32)
    retrieval = np.array([0.3, 0.3, -np.inf], dtype=np.float32)
    scores = order_scores(ranking, retrieval, OrderSpec(ranking=1, retrieval=5, intercept=-1))
    assert scores.dtype == np.float32
    assert np.isfinite(log_odds(ranking)).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores[2] == pytest.approx(expit(-1), abs=1e-6)


def test_each_further_source_counts_by_its_weight_and_one_that_failed_counts_nothing() -> None:
    ranking, retrieval, _ = draw(OrderSpec(), 50)
    chain, fresh = retrieval[::-1].copy(), np.linspace(0, 1, 50, dtype=np.float32)
    order = OrderSpec(ranking=0.5, retrieval=2, sources={"chain": 3.0, "fresh": -1.0}, intercept=-1)
    z = 0.5 * logit(ranking.astype(float)) + 2 * retrieval - 1
    both = order_scores(ranking, retrieval, order, {"chain": chain, "fresh": fresh})
    np.testing.assert_allclose(both, expit(z + 3 * chain - fresh), atol=1e-5)
    one = order_scores(ranking, retrieval, order, {"chain": chain})
    np.testing.assert_allclose(one, expit(z + 3 * chain), atol=1e-5)


def test_a_ranker_of_no_weight_need_not_have_scored() -> None:
    _, retrieval, _ = draw(OrderSpec(), 50)
    order = OrderSpec(ranking=0, retrieval=2)
    unknown = np.full(50, np.nan, dtype=np.float32)
    np.testing.assert_allclose(order_scores(unknown, retrieval, order), expit(2 * retrieval), atol=1e-6)


def test_corrections_bend_a_score_by_what_is_known_of_the_user_and_columns_are_added() -> None:
    ranking, retrieval, _ = (part.reshape(4, 10) for part in draw(OrderSpec(), 40))
    chain = retrieval[:, ::-1].copy()
    recent = np.full((4, 6), NULL_INT)
    recent[1, :2], recent[2, :5], recent[3] = 7, 7, 7
    columns = np.stack([ranking, chain], axis=2)
    order = OrderSpec(
        ranking=0.0,
        retrieval=2.0,
        sources={"chain": 3.0},
        corrections={
            "retrieval": Correction(few=1.5),
            "chain": Correction(plain=-1.0, many=0.5, bent=2.0, knee=0.1),
        },
        columns={"a": 0.7, "b": -0.2},
        intercept=-1,
    )
    known = known_items(recent)
    assert known[:, 0].tolist() == [0, 2, 5, 6]
    found = order_scores(ranking, retrieval, order, {"chain": chain}, known, columns)
    z = (2 + 1.5 / (1 + known)) * retrieval + (3 - 1 + 0.5 * np.log(1 + known)) * chain - 1
    z = z + 2 * np.log(1 + np.maximum(chain, 0) / 0.1) + 0.7 * ranking - 0.2 * chain
    np.testing.assert_allclose(found, expit(z), atol=1e-5)
    failed = order_scores(ranking, retrieval, order, {}, known, columns)
    z = (2 + 1.5 / (1 + known)) * retrieval - 1 + 0.7 * ranking - 0.2 * chain
    np.testing.assert_allclose(failed, expit(z), atol=1e-5)


def test_who_is_known_less_than_anybody_whom_corrections_were_fitted_on_gets_the_blend() -> None:
    ranking, retrieval, _ = (part.reshape(4, 10) for part in draw(OrderSpec(), 40))
    blend = OrderSpec(ranking=0.0, retrieval=2.0, intercept=-1)
    corrected = {"corrections": {"retrieval": Correction(few=1.5)}, "columns": {"a": 0.7}, "least_known": 2}
    order = blend.model_copy(update=corrected)
    known, columns = np.array([[0], [1], [2], [9]]), ranking[:, :, None]
    found = order_scores(ranking, retrieval, order, {}, known, columns)
    plain = order_scores(ranking, retrieval, blend)
    assert (found[:2] == plain[:2]).all()
    assert (found[2:] != plain[2:]).all()


def test_without_corrections_and_columns_the_order_is_the_blend_whatever_is_known() -> None:
    ranking, retrieval, _ = (part.reshape(4, 10) for part in draw(OrderSpec(), 40))
    order = OrderSpec(ranking=0.5, retrieval=2.0, intercept=-1)
    known, columns = np.arange(4)[:, None], np.stack([ranking, retrieval], axis=2)
    plain = order_scores(ranking, retrieval, order)
    assert (order_scores(ranking, retrieval, order, {}, known, columns) == plain).all()


@pytest.mark.parametrize("scores", [order_scores, lambda _, *others: unranked_scores(*others)])
def test_users_of_whom_nothing_is_known_have_an_order_of_their_own(scores: Callable[..., Floats]) -> None:
    ranking, retrieval, _ = (part.reshape(4, 10) for part in draw(OrderSpec(), 40))
    source_scores = {"popular": retrieval[::-1].copy(), "chain": ranking}
    unknown = OrderSpec(ranking=0, sources={"popular": 3.0}, intercept=-2)
    blend = OrderSpec(ranking=0, retrieval=2, sources={"chain": 1.0}, intercept=-1)
    order = blend.model_copy(update={"unknown": unknown, "corrections": {"chain": Correction(plain=1.0)}})
    known = np.array([0, 1, 0, 9])[:, None]
    found = scores(ranking, retrieval, order, source_scores, known)
    np.testing.assert_array_equal(found[::2], scores(ranking, retrieval, unknown, source_scores)[::2])
    everyones = order.model_copy(update={"unknown": None})
    np.testing.assert_array_equal(
        found[1::2], scores(ranking, retrieval, everyones, source_scores, known)[1::2]
    )
    assert order.weighed == {"retrieval", "chain", "popular"}
    assert "of unknown users, weighs ranking 0, retrieval 0, popular 3" in str(order)


@pytest.mark.parametrize("scores", [order_scores, lambda _, *others: unranked_scores(*others)])
def test_users_of_whom_few_items_are_known_have_the_order_of_so_many(scores: Callable[..., Floats]) -> None:
    ranking, retrieval, _ = (part.reshape(5, 10) for part in draw(OrderSpec(), 50))
    source_scores = {"popular": retrieval[::-1].copy(), "chain": ranking}
    columns = np.stack([ranking, retrieval, ranking - retrieval], axis=2)
    everyones = OrderSpec(ranking=0, retrieval=2, sources={"chain": 1.0}, columns={"a": 1.0}, intercept=-1)
    of_one = OrderSpec(ranking=0, sources={"popular": 3.0}, intercept=-2)
    bent, of_columns = {"chain": Correction(few=1.0)}, {"c": 2.0, "b": -1.0}
    of_more = OrderSpec(ranking=0, sources={"chain": 4.0}, corrections=bent, columns=of_columns)
    few = (FewOrder(least=1, most=1, order=of_one), FewOrder(least=2, most=3, order=of_more))
    order = everyones.model_copy(update={"few": few})
    assert order.numeric == ("a", "c", "b")
    assert order.weighed == {"retrieval", "chain", "popular"}
    assert str(order).endswith("; users with 1, 2 to 3 items have others")
    known, is_ranked = np.array([0, 1, 2, 3, 4])[:, None], scores is order_scores
    found = scores(ranking, retrieval, order, source_scores, known, *[columns] * is_ranked)
    for rows, one, places in ([0, 4], everyones, [0]), ([1], of_one, []), ([2, 3], of_more, [1, 2]):
        theirs = {name: score[rows] for name, score in source_scores.items()}
        given = [columns[rows][..., places]] * is_ranked
        expected = scores(ranking[rows], retrieval[rows], one, theirs, known[rows], *given)
        np.testing.assert_array_equal(found[rows], expected)


def lists_of(weights: OrderSpec, users: int, seed: int = 0, **sources: np.ndarray) -> Judged:
    """Draws candidates (users, 50) and clicks with the chance that `weights` gives them."""
    ranking, retrieval, _ = draw(OrderSpec(), users * 50, seed)
    chance = order_scores(ranking, retrieval, weights, {n: v.ravel() for n, v in sources.items()})
    clicked = np.random.default_rng(seed + 1).random(len(chance)) < chance
    shape = (users, 50)
    return Judged(
        ranking=ranking.reshape(shape),
        retrieval=retrieval.reshape(shape),
        sources=sources,
        clicked=clicked.reshape(shape),
        live=np.ones(shape, dtype=np.bool_),
        relevant=clicked.reshape(shape).sum(axis=1).astype(np.int64),
        known=np.zeros((users, 1), dtype=np.int64),
        columns={},
    )


def test_the_fit_finds_the_weights_that_drew_the_clicks() -> None:
    chain = np.random.default_rng(9).exponential(1, (4000, 50)).astype(np.float32)
    true = OrderSpec(ranking=0.7, retrieval=4.0, sources={"chain": 1.0}, intercept=-7.0)
    found = fit_ordering(lists_of(true, 4000, chain=chain), OrderSpec())
    assert found.ranking == pytest.approx(true.ranking, rel=0.15)
    assert found.retrieval == pytest.approx(true.retrieval, rel=0.15)
    assert found.sources["chain"] == pytest.approx(1.0, rel=0.15)
    assert found.intercept == pytest.approx(true.intercept, rel=0.1)


def test_a_score_that_misleads_gets_no_weight_rather_than_a_negative_one() -> None:
    judged = lists_of(OrderSpec(ranking=1, retrieval=4, intercept=-5), 1000)
    found = fit_ordering(replace(judged, retrieval=-judged.retrieval), OrderSpec())
    assert found.retrieval == 0
    assert found.ranking > 0


def test_a_ranker_that_adds_nothing_has_no_weight() -> None:
    judged = lists_of(OrderSpec(ranking=0, retrieval=6, intercept=-6), 1000)
    noise = expit(np.random.default_rng(3).normal(size=judged.ranking.shape)).astype(np.float32)
    upside_down = np.where(judged.clicked, noise / 2, noise)
    found = fit_ordering(replace(judged, ranking=upside_down), OrderSpec())
    assert found.ranking == 0
    assert found.retrieval > 0


def test_an_order_is_never_worse_on_its_users_than_the_best_single_score() -> None:
    chain = np.random.default_rng(5).exponential(1, (300, 50)).astype(np.float32)
    judged = lists_of(
        OrderSpec(ranking=0.1, retrieval=0.2, sources={"chain": 2.0}, intercept=-7), 300, chain=chain
    )
    order = fit_ordering(judged, OrderSpec())

    def gain(scores: np.ndarray) -> float:
        at = np.argsort(-scores, axis=1, kind="stable")
        hits = np.take_along_axis(judged.clicked, at, axis=1)
        return float(np.nanmean(ndcg_at(hits, judged.relevant, 10)))

    served = gain(order_scores(judged.ranking, judged.retrieval, order, judged.sources))
    assert served >= max(map(gain, (judged.ranking, judged.retrieval, chain))) - 1e-3


def test_padding_takes_no_part() -> None:
    judged = lists_of(OrderSpec(ranking=1, retrieval=4, intercept=-5), 500)
    shape = (500, 20)
    padded = Judged(
        **{
            name: np.concatenate(
                [getattr(judged, name), np.full(shape, value, getattr(judged, name).dtype)], axis=1
            )
            for name, value in (("ranking", 1), ("retrieval", 99), ("clicked", True), ("live", False))
        },
        sources={},
        relevant=judged.relevant,
        known=judged.known,
        columns={},
    )
    found, expected = fit_ordering(padded, OrderSpec()), fit_ordering(judged, OrderSpec())
    assert found.retrieval == pytest.approx(expected.retrieval, rel=1e-3)
    assert found.ranking == pytest.approx(expected.ranking, rel=1e-3)


def test_with_a_handful_of_clicks_the_order_is_what_it_would_be_otherwise() -> None:
    judged = lists_of(OrderSpec(), 100)
    few = np.zeros_like(judged.clicked)
    few[0, : FEWEST_CLICKS - 1] = True
    otherwise = OrderSpec(ranking=0, retrieval=3)
    assert fit_ordering(replace(judged, clicked=few), otherwise) == otherwise


def test_a_score_that_is_equal_for_all_is_never_the_order_however_well_the_candidates_came() -> None:
    judged = lists_of(OrderSpec(ranking=0, retrieval=6, intercept=-6), 400)
    best_first = np.argsort(~judged.clicked, axis=1, kind="stable")
    ranking = np.take_along_axis(judged.ranking, best_first, axis=1)
    retrieval = np.take_along_axis(judged.retrieval, best_first, axis=1)
    clicked = np.take_along_axis(judged.clicked, best_first, axis=1)
    silent = {"silent": np.zeros_like(judged.retrieval)}
    found = fit_ordering(
        replace(judged, ranking=ranking, retrieval=retrieval, clicked=clicked, sources=silent), OrderSpec()
    )
    assert found.retrieval > 0
    assert found.sources == {}


def corrected(judged: Judged, order: OrderSpec) -> np.ndarray:
    columns = np.stack([judged.columns[name] for name in order.columns], axis=2) if order.columns else None
    return order_scores(judged.ranking, judged.retrieval, order, judged.sources, judged.known, columns)


def test_a_column_that_tells_what_no_score_does_corrects_the_order_and_stays_a_probability() -> None:
    judged = lists_of(OrderSpec(ranking=0, retrieval=4, intercept=-5), 600)
    rng = np.random.default_rng(2)
    telling, noise = (rng.normal(size=judged.clicked.shape).astype(np.float32) for _ in range(2))
    clicked = rng.random(telling.shape) < expit(4 * judged.retrieval - 5 + 1.0 * telling)
    some = replace(judged, clicked=clicked, relevant=clicked.sum(axis=1).astype(np.int64))
    some = replace(some, known=np.where(np.arange(600) < 20, 0, 5)[:, None])
    order = fit_ordering(replace(some, columns={"noise": noise, "telling": telling}), OrderSpec())
    assert order.least_known == 5
    assert order.columns["telling"] == pytest.approx(1.0, rel=0.2)
    assert abs(order.columns["noise"]) < 0.1
    chances = corrected(replace(some, columns={"noise": noise, "telling": telling}), order)
    assert chances.mean() == pytest.approx(clicked.mean(), rel=0.05)
    plain = fit_ordering(some, OrderSpec())
    assert some.ndcg(chances).mean() > some.ndcg(corrected(some, plain)).mean() + 0.02


def test_a_score_that_says_more_of_who_is_known_longer_is_corrected_so() -> None:
    judged = lists_of(OrderSpec(ranking=0, retrieval=4, intercept=-5), 2000)
    rng = np.random.default_rng(4)
    chain = rng.exponential(1, judged.clicked.shape).astype(np.float32)
    known = np.where(np.arange(2000) % 2, 0, 50)[:, None]
    clicked = rng.random(chain.shape) < expit(3 * judged.retrieval - 5 + np.where(known, 1.5, 0.0) * chain)
    judged = replace(
        judged,
        clicked=clicked,
        sources={"chain": chain},
        relevant=clicked.sum(axis=1).astype(np.int64),
        known=known,
    )
    order = fit_ordering(judged, OrderSpec())
    plain = order.model_copy(update={"corrections": {}, "columns": {}})
    gain = judged.ndcg(corrected(judged, order)) - judged.ndcg(corrected(judged, plain))
    assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain))


def test_columns_that_say_nothing_correct_nothing() -> None:
    judged = lists_of(OrderSpec(ranking=1, retrieval=4, intercept=-5), 300)
    noise = np.random.default_rng(6).normal(size=(8, *judged.clicked.shape)).astype(np.float32)
    order = fit_ordering(
        replace(judged, columns={f"noise_{at}": n for at, n in enumerate(noise)}), OrderSpec()
    )
    assert order.columns == {}
    assert order.corrections == {}


@pytest.mark.parametrize(("truth", "is_theirs"), [("popular", True), ("stale", False)])
def test_unknown_users_have_what_is_popular_alone_where_that_is_better(truth: str, is_theirs: bool) -> None:
    sources = {
        name: np.random.default_rng(seed).exponential(1, (500, 50)).astype(np.float32)
        for seed, name in enumerate(("popular", "stale"))
    }
    judged = lists_of(OrderSpec(ranking=0, sources={truth: 1.0}, intercept=-4), 500, 0, **sources)
    found = order_of_unknown(judged, sources["stale"], judged, "popular")
    assert (found is not None) == is_theirs
    if found:
        assert found.weighed == {"popular"}
        chances = order_scores(judged.ranking, judged.retrieval, found, judged.sources)
        assert chances.mean() == pytest.approx(judged.clicked.mean(), rel=0.05)


@pytest.mark.parametrize(("truth", "is_theirs"), [("popular", True), ("chain", False)])
def test_users_of_whom_few_items_are_known_have_an_order_of_their_own_where_that_is_better(
    truth: str, is_theirs: bool
) -> None:
    sources = {
        name: np.random.default_rng(seed).exponential(1, (500, 50)).astype(np.float32)
        for seed, name in enumerate(("popular", "chain"))
    }
    judged = lists_of(OrderSpec(ranking=0, sources={truth: 1.0}, intercept=-4), 500, 0, **sources)
    found = order_of_few(judged, sources["chain"], {"popular", "chain", "retrieval"})
    assert (found is not None) == is_theirs
    if found:
        assert found.ranking == 0, "it is not among what may count"
        assert found.sources["popular"] > 3 * found.sources.get("chain", 0)
        chances = order_scores(judged.ranking, judged.retrieval, found, judged.sources)
        assert chances.mean() == pytest.approx(judged.clicked.mean(), rel=0.05)


def test_a_handful_of_clicks_give_users_of_whom_few_items_are_known_no_order_of_their_own() -> None:
    chain = np.random.default_rng(1).exponential(1, (100, 50)).astype(np.float32)
    judged = lists_of(OrderSpec(ranking=0, sources={"chain": 2.0}), 100, chain=chain)
    few = np.zeros_like(judged.clicked)
    few[np.arange(FEWEST_CLICKS - 1), chain.argmax(axis=1)[: FEWEST_CLICKS - 1]] = True
    assert order_of_few(replace(judged, clicked=few), -chain, {"chain"}) is None


def test_users_are_kept_and_joined_with_all_that_is_known_of_their_candidates() -> None:
    chain = np.arange(200, dtype=np.float32).reshape(4, 50)
    judged = replace(lists_of(OrderSpec(), 4, chain=chain), columns={"age": chain + 1})
    some = judged.some(np.array([True, False, False, True]))
    assert some.sources["chain"][:, 0].tolist() == [0, 150]
    both = some.and_those_of(judged)
    assert both.columns["age"][:, 0].tolist() == [1, 151, 1, 51, 101, 151]
    assert both.clicked.sum() == some.clicked.sum() + judged.clicked.sum()


def test_a_handful_of_clicks_give_unknown_users_no_order_of_their_own() -> None:
    popular = np.random.default_rng(1).exponential(1, (100, 50)).astype(np.float32)
    judged = lists_of(OrderSpec(ranking=0, sources={"popular": 2.0}), 100, popular=popular)
    few = np.zeros_like(judged.clicked)
    few[np.arange(FEWEST_CLICKS - 1), popular.argmax(axis=1)[: FEWEST_CLICKS - 1]] = True
    judged = replace(judged, clicked=few)
    assert order_of_unknown(judged, -popular, judged, "popular") is None
