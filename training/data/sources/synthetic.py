"""Makes a world in which a good model is measurably better than a bad one, from one seed.

Users and items have tastes in one latent space, around the centres of categories. A user is shown items that
are popular on that day or near their taste, and clicks by taste, quality and surface. Tastes drift from one
category to another, and an item's popularity rises and fades. Where it is asked for, some users follow
chains: after an item most often comes the next one of a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from contract.arrays import Doubles, Ints
from training.data.sources.adapter import Raw, read_declaration

NAME = "synthetic"


_CATEGORIES = 16
_TAGS = 48
_WIDTH = 12  # latent dimensions
_SHOWN_FROM = 24  # popular items among which a user's taste chooses what is shown
_REGIONS = ("north", "east", "south", "west")
_NOUNS = ("lamp", "chair", "kettle", "jacket", "novel", "guitar", "tent", "camera")
_SURFACE_EFFECT = (0.0, 0.8, -0.6)
_MOVES = 0.4  # share of users whose taste moves to another category, at a drift of 1
_GOES_ON = 0.7  # chance that a follower's next interaction is with the next item of the chain
_LIKES = 0.8  # chance that it is clicked
_BLOCK = 100_000  # events drawn at a time, so that memory does not grow with the world
_END = pd.Timestamp("2026-01-31", tz="UTC")


@dataclass(frozen=True)
class Size:
    """How large the world is, how fast it changes, which share of users follows chains, and its seed."""

    users: int = 3_000
    items: int = 1_500
    days: int = 30
    interactions: int = 150_000
    seed: int = 0
    drift: float = 1.0
    followers: float = 0.0


@dataclass(frozen=True)
class World:
    """What the models cannot see: tastes (rows, latent), popularity by day, quality, and each user's
    activity.
    """

    size: Size
    user_taste: Doubles
    user_taste_later: Doubles
    user_category: Ints
    user_activity: Doubles
    item_taste: Doubles
    item_category: Ints
    item_quality: Doubles
    item_popularity: Doubles  # (days, items), each day sums to 1

    def affinity(self, users: Ints, items: Ints, day: Doubles) -> Doubles:
        """How much each user likes each item on a day; broadcasts, about N(0, 1)."""
        share = (day / self.size.days)[..., None]
        taste = (1 - share) * self.user_taste[users] + share * self.user_taste_later[users]
        return np.asarray((taste * self.item_taste[items]).sum(-1))

    def click_probability(self, users: Ints, items: Ints, day: Doubles, surface: Ints) -> Doubles:
        """The truth that a ranker approaches."""
        logit = 1.6 * self.affinity(users, items, day) + 0.7 * self.item_quality[items]
        return np.asarray(1 / (1 + np.exp(-(logit + np.take(_SURFACE_EFFECT, surface) - 2.4))))


def make_world(size: Size, rng: np.random.Generator) -> World:
    """Draws everything that is hidden."""
    centres = rng.normal(size=(_CATEGORIES, _WIDTH))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    weights = rng.dirichlet(np.full(_CATEGORIES, 2.0))
    item_category = rng.choice(_CATEGORIES, size.items, p=weights)
    user_category = rng.choice(_CATEGORIES, size.users, p=weights)
    later_category = np.where(
        rng.random(size.users) < _MOVES * size.drift,
        rng.choice(_CATEGORIES, size.users, p=weights),
        user_category,
    )

    def near(category: Ints) -> Doubles:
        taste = centres[category] + rng.normal(size=(len(category), _WIDTH)) * 0.6 / np.sqrt(_WIDTH)
        return np.asarray(taste / np.linalg.norm(taste, axis=1, keepdims=True))

    day = np.arange(size.days)[:, None]
    peak = rng.uniform(-0.5 * size.days, size.days, size.items)
    fading = np.exp(-size.drift * np.abs(day - peak) / (0.5 * size.days))
    popularity = rng.lognormal(0, 1.1, size.items) * fading
    scale = np.sqrt(_WIDTH) * 0.8  # a dot product of unit vectors has variance 1/_WIDTH
    return World(
        size=size,
        user_taste=near(user_category) * scale,
        user_taste_later=near(later_category) * scale,
        user_category=user_category,
        user_activity=_shares(rng.lognormal(0, 0.9, size.users)),
        item_taste=near(item_category),
        item_category=item_category,
        item_quality=rng.normal(size=size.items),
        item_popularity=popularity / popularity.sum(axis=1, keepdims=True),
    )


def read(size: Size) -> Raw:
    """Makes the three tables. A few users and items have no row, some features are null: both are normal."""
    rng = np.random.default_rng(size.seed)
    world = make_world(size, rng)
    users, items = _users(world, rng), _items(world, rng)
    blocks = [min(_BLOCK, size.interactions - start) for start in range(0, size.interactions, _BLOCK)]
    interactions = pd.concat([_interactions(world, rows, rng) for rows in blocks])
    if size.followers:
        interactions = _follow(world, interactions, np.random.default_rng([size.seed, 1]))
    interactions = interactions.drop_duplicates(["user_id", "item_id", "timestamp"])
    declaration = read_declaration(NAME)
    day = pd.Timedelta(days=1)
    train, validate = (_END - day * round(size.days * share) for share in (0.2, 0.1))
    declaration["split"] = {"train_until": train, "validate_until": validate, "test_until": _END}
    declaration["as_of"] = validate
    return Raw(
        declaration,
        _without_the_rarest(users, interactions["user_id"]),
        _without_the_rarest(items, interactions["item_id"]),
        interactions.sort_values("timestamp", kind="stable", ignore_index=True),
    )


def _without_the_rarest(table: pd.DataFrame, ids: pd.Series) -> pd.DataFrame:
    """Drops one row in a thousand, at least one: those of the ids with the fewest interactions."""
    rarest = ids.value_counts().sort_index().sort_values(kind="stable").index[: max(1, len(table) // 1000)]
    return table[~table[str(ids.name)].isin(rarest)]


def _shares(weights: Doubles) -> Doubles:
    return np.asarray(weights / weights.sum())


def _users(world: World, rng: np.random.Generator) -> pd.DataFrame:
    n = world.size.users
    age = pd.array((world.user_category // 3 + rng.integers(0, 3, n)) % 7, dtype="Int64")
    age[rng.random(n) < 0.1] = pd.NA
    others = rng.integers(0, _CATEGORIES, (n, 2))
    have_interests = rng.random(n) < 0.7
    interests = [
        [int(first), *dict.fromkeys(int(o) for o in other if o != first)] if has_interests else None
        for first, other, has_interests in zip(world.user_category, others, have_interests, strict=True)
    ]
    return pd.DataFrame(
        {
            "user_id": np.arange(1, n + 1),
            "user_age_bucket": age,
            "user_region": rng.choice(_REGIONS, n),
            "user_loyalty_days": rng.exponential(400, n).astype("float32"),
            "user_interests": interests,
        }
    )


def _items(world: World, rng: np.random.Generator) -> pd.DataFrame:
    n = world.size.items
    category = world.item_category
    tags = (category[:, None] * 3 + rng.integers(0, 5, (n, 3))) % _TAGS
    brand = (category * 7 + rng.integers(0, 12, n)) % 90
    price = np.exp(rng.normal(3, 0.8, n) + 0.3 * world.item_quality)
    price[rng.random(n) < 0.05] = np.nan
    item_id = np.arange(1, n + 1)
    return pd.DataFrame(
        {
            "item_id": item_id,
            "item_name": [
                f"{_NOUNS[c % len(_NOUNS)]} {i} · category {c}"
                for i, c in zip(item_id, category, strict=True)
            ],
            "item_category": category,
            "item_tags": [sorted({int(t) for t in row}) for row in tags],
            "item_brand": [f"brand {b}" for b in brand],
            "item_price_usd": price.astype("float32"),
            "item_is_available": rng.random(n) > 0.01,
        }
    )


def _interactions(world: World, rows: int, rng: np.random.Generator) -> pd.DataFrame:
    """Shows items and notes what was clicked and bought; item and user ids start at 1."""
    day = np.sort(rng.integers(0, world.size.days, rows))
    hour = (rng.normal(15, 5, rows) % 24).astype(np.int64)
    users = rng.choice(world.size.users, rows, p=world.user_activity)
    surface = rng.choice(len(_SURFACE_EFFECT), rows, p=(0.6, 0.3, 0.1))
    pool = np.empty((rows, _SHOWN_FROM), dtype=np.int64)
    for d in range(world.size.days):
        on_day = day == d
        pool[on_day] = rng.choice(
            world.size.items, (int(on_day.sum()), _SHOWN_FROM), p=world.item_popularity[d]
        )
    when = day.astype(np.float64)
    liking = world.affinity(users[:, None], pool, when[:, None])
    noise = rng.gumbel(size=pool.shape)  # softmax choice: the window is neither random nor perfect
    items = pool[np.arange(rows), np.argmax(1.2 * liking + noise, axis=1)]
    probability = world.click_probability(users, items, when, surface)
    is_click = rng.random(rows) < probability
    seconds = day * 86_400 + hour * 3_600 + rng.integers(0, 3_600, rows)
    start = _END - pd.Timedelta(days=world.size.days)
    return pd.DataFrame(
        {
            "user_id": users + 1,
            "item_id": items + 1,
            "timestamp": start + pd.to_timedelta(seconds, unit="s"),
            "is_click": is_click.astype("int64"),
            "is_purchase": (is_click & (rng.random(rows) < 0.2 * probability)).astype("int64"),
            "context_surface": surface,
            "context_hour": hour,
        }
    )


def _follow(world: World, log: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Lets some users go on along a chain: one ring of all items, category after category."""
    size = world.size
    ring = np.lexsort((rng.random(size.items), world.item_category))
    place = np.argsort(ring)
    is_follower = rng.random(size.users) < size.followers
    order = np.lexsort((log["timestamp"], log["user_id"]))
    users, items = (log[name].to_numpy()[order] - 1 for name in ("user_id", "item_id"))
    rows = np.arange(len(log))
    goes_on = is_follower[users] & (rng.random(len(log)) < _GOES_ON) & (users == np.roll(users, 1))
    goes_on[:1] = False
    since = np.maximum.accumulate(np.where(goes_on, 0, rows))
    likes = rng.random(len(log)) < _LIKES
    changed = {
        "item_id": ring[(place[items[since]] + rows - since) % size.items] + 1,
        "is_click": np.where(goes_on, likes, log["is_click"].to_numpy()[order]),
        "is_purchase": np.where(
            goes_on, likes & (rng.random(len(log)) < 0.1), log["is_purchase"].to_numpy()[order]
        ),
    }
    back = np.argsort(order)
    return log.assign(**{name: values[back].astype(np.int64) for name, values in changed.items()})
