from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from training.data.sources.synthetic import Size, World, make_world, read

SIZE = Size(users=400, items=200, days=15, interactions=20_000)


def test_one_seed_gives_one_world() -> None:
    first, again, other = read(SIZE), read(SIZE), read(Size(400, 200, 15, 20_000, seed=1))
    pd.testing.assert_frame_equal(first.interactions, again.interactions)
    pd.testing.assert_frame_equal(first.items, again.items)
    assert not first.interactions.equals(other.interactions)


def test_a_few_users_items_and_features_are_missing() -> None:
    world = read(SIZE)
    assert 0 < (~world.interactions["user_id"].isin(world.users["user_id"])).mean() < 0.01
    assert 0 < (~world.interactions["item_id"].isin(world.items["item_id"])).mean() < 0.01
    assert world.users["user_age_bucket"].isna().any()
    assert world.users["user_interests"].isna().any()
    assert world.items["item_price_usd"].isna().any()


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SIZE, np.random.default_rng(SIZE.seed))


def test_tastes_drift_and_popularity_fades(world: World) -> None:
    everyone, first, last = np.arange(SIZE.users), np.zeros(SIZE.users), np.full(SIZE.users, float(SIZE.days))
    favourite = [
        np.argmax(world.affinity(everyone[:, None], np.arange(SIZE.items)[None], day[:, None]), axis=1)
        for day in (first, last)
    ]
    assert (favourite[0] != favourite[1]).mean() > 0.2
    top = [set(np.argsort(-world.item_popularity[day])[:20]) for day in (0, SIZE.days - 1)]
    assert len(top[0] & top[1]) < 15


def test_without_drift_nothing_fades_and_with_more_it_fades_sooner() -> None:
    still, slow, fast = (
        make_world(Size(60, 50, 12, 100, drift=drift), np.random.default_rng(0)).item_popularity
        for drift in (0.0, 1.0, 3.0)
    )
    np.testing.assert_allclose(still[0], still[-1])
    changed = [np.abs(world[-1] - world[0]).sum() for world in (slow, fast)]
    assert 0 < changed[0] < changed[1]


def followed(rows: pd.DataFrame) -> float:
    """The share of interactions after which the same user's next is with what most often comes next."""
    rows = rows.sort_values(["user_id", "timestamp"], kind="stable")
    pairs = rows.assign(after=rows.groupby("user_id")["item_id"].shift(-1)).dropna()
    counts = pairs.groupby(["item_id", "after"]).size()
    return float(counts.groupby("item_id").max().sum() / counts.sum())


def test_followers_go_along_chains_and_like_it_and_nobody_else_changes() -> None:
    plain, some, all_ = (read(Size(400, 200, 15, 20_000, followers=s)).interactions for s in (0.0, 0.5, 1.0))
    assert followed(plain) < 0.15
    assert followed(plain) + 0.2 < followed(some) < followed(all_) - 0.2
    assert plain["is_click"].mean() + 0.1 < some["is_click"].mean()
    same = some["item_id"].to_numpy() == plain["item_id"].to_numpy()
    shares = pd.Series(same).groupby(plain["user_id"].to_numpy()).mean()
    assert 0.4 < (shares == 1).mean() < 0.6


def recall_at_20(scores: npt.NDArray[np.float64], train: pd.DataFrame, test: pd.DataFrame) -> float:
    """The share of a user's clicked, unseen items in their top 20, mean over users; scores (users, items)."""
    scores = scores.copy()
    scores[train["user_id"] - 1, train["item_id"] - 1] = -np.inf
    top = np.argsort(-scores, axis=1)[:, :20]
    new = test.merge(train[["user_id", "item_id"]].drop_duplicates(), how="left", indicator=True)
    new = new[(new["_merge"] == "left_only") & (new["is_click"] == 1)].drop_duplicates(["user_id", "item_id"])
    hits = [item - 1 in top[user - 1] for user, item in zip(new["user_id"], new["item_id"], strict=True)]
    return float(pd.Series(hits).groupby(new["user_id"].to_numpy()).mean().mean())


def test_a_good_model_beats_a_simple_one_and_that_beats_popularity(world: World) -> None:
    rows = read(SIZE).interactions
    is_test = rows["timestamp"] >= rows["timestamp"].max() - pd.Timedelta(days=2)
    train, test = rows[~is_test], rows[is_test]
    seen = np.zeros((SIZE.users, SIZE.items))
    np.add.at(seen, (train["user_id"] - 1, train["item_id"] - 1), 1.0)
    popular = np.tile(seen.sum(axis=0), (SIZE.users, 1))
    together = seen.T @ seen
    norm = np.sqrt(np.diag(together)) + 1e-9
    neighbours = seen @ (together / norm[:, None] / norm[None, :])
    users, items = np.arange(SIZE.users)[:, None], np.arange(SIZE.items)[None]
    taste = world.affinity(users, items, np.full((SIZE.users, 1), float(SIZE.days)))
    truth = 1.2 * taste + np.log(world.item_popularity[-1])[None] + 0.4 * world.item_quality[None]
    recalls = [recall_at_20(scores, train, test) for scores in (popular, neighbours, truth)]
    assert recalls[0] + 0.05 < recalls[1]
    assert recalls[1] + 0.05 < recalls[2]


def test_the_truth_predicts_clicks_better_than_item_rates(world: World) -> None:
    rows = read(SIZE).interactions
    day = (rows["timestamp"] - rows["timestamp"].min().floor("D")).dt.days.to_numpy(dtype=np.float64)
    truth = world.click_probability(
        rows["user_id"].to_numpy() - 1,
        rows["item_id"].to_numpy() - 1,
        day,
        rows["context_surface"].to_numpy(),
    )
    rate = rows.groupby("item_id")["is_click"].transform("mean").to_numpy()

    def auc(scores: npt.NDArray[np.float64]) -> float:
        ranks = pd.Series(scores).rank().to_numpy()
        clicked = rows["is_click"].to_numpy() == 1
        n = clicked.sum()
        return float((ranks[clicked].sum() - n * (n + 1) / 2) / (n * (~clicked).sum()))

    assert auc(rate) + 0.03 < auc(truth)
