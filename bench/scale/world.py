"""A world of any number of users and items, drawn from one seed in arrays: a million of each in a minute.

Users and items have tastes around the centres of categories. A user meets popular items, mostly of one
category, takes the one of a few that is nearest to the taste, and clicks by taste and quality. Of an item's
taste a noisy observation is a feature, so that a model may know items that it was not trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from contract.arrays import Floats, Ints
from contract.dataset import DATASET_FILE, Dataset
from training.data.prepared import Prepared, in_order

CATEGORIES = 64
WIDTH = 8  # latent dimensions, and so columns item_style_*
SHOWN = 4  # items among which a taste chooses
OWN_CATEGORY = 0.8  # share of what is shown that is of the user's category
NOISE = 0.15  # of what the features tell of a taste
DAYS = 30
MEAN_EVENTS, MOST_EVENTS = 8, 100
END = pd.Timestamp("2026-01-31", tz="UTC")
BLOCK = 500_000
REGIONS = np.array(["north", "east", "south", "west"], dtype=object)


@dataclass(frozen=True)
class Hidden:
    """What the models cannot see."""

    user_taste: Floats
    user_category: Ints
    item_taste: Floats
    item_category: Ints
    item_quality: Floats
    popularity: npt.NDArray[np.float64]
    """Of every item, sums to 1."""


def make_world(users: int, items: int, seed: int = 0) -> Prepared:
    """Draws the three tables; ids start at 1."""
    rng = np.random.default_rng(seed)
    hidden = _hidden(users, items, rng)
    folder = Path(__file__).parent
    raw = yaml.safe_load((folder / DATASET_FILE).read_text())
    day = pd.Timedelta(days=1)
    raw["split"] = {
        "train_until": END - 6 * day,
        "validate_until": END - 3 * day,
        "test_until": END,
    }
    raw["as_of"] = END
    dataset = Dataset.model_validate(raw)
    frames = {
        "users": _users(hidden, rng),
        "items": _items(hidden, rng),
        "interactions": _interactions(hidden, rng),
    }
    return Prepared(folder=folder, dataset=dataset, **in_order(frames, dataset))


def _hidden(users: int, items: int, rng: np.random.Generator) -> Hidden:
    centres = rng.normal(size=(CATEGORIES, WIDTH)).astype(np.float32)
    weights = rng.dirichlet(np.full(CATEGORIES, 4.0))

    def near(category: Ints) -> Floats:
        taste = centres[category] + 0.8 * rng.normal(size=(len(category), WIDTH)).astype(np.float32)
        return np.asarray(taste / np.linalg.norm(taste, axis=1, keepdims=True), dtype=np.float32)

    user_category = rng.choice(CATEGORIES, users, p=weights)
    item_category = rng.choice(CATEGORIES, items, p=weights)
    popularity = 1.0 / (rng.permutation(items) + 10.0)
    return Hidden(
        user_taste=near(user_category),
        user_category=user_category,
        item_taste=near(item_category),
        item_category=item_category,
        item_quality=rng.normal(size=items).astype(np.float32),
        popularity=popularity / popularity.sum(),
    )


def _users(hidden: Hidden, rng: np.random.Generator) -> pd.DataFrame:
    n = len(hidden.user_category)
    interests = np.stack([hidden.user_category, *rng.integers(0, CATEGORIES, (2, n))], axis=1)
    age = pd.array((hidden.user_category // 10 + rng.integers(0, 2, n)) % 7, dtype="Int64")
    age[rng.random(n) < 0.1] = pd.NA
    return pd.DataFrame(
        {
            "user_id": np.arange(1, n + 1),
            "user_age_bucket": age,
            "user_region": REGIONS[rng.integers(0, len(REGIONS), n)],
            "user_loyalty_days": rng.exponential(400, n).astype("float32"),
            "user_interests": list(interests),
        }
    )


def _items(hidden: Hidden, rng: np.random.Generator) -> pd.DataFrame:
    n, category = len(hidden.item_category), hidden.item_category
    style = hidden.item_taste + NOISE * rng.normal(size=hidden.item_taste.shape)
    brand = (category * 31 + rng.integers(0, 40, n)) % 1500
    brands = np.array([f"brand {b}" for b in range(1500)], dtype=object)
    item_id = np.arange(1, n + 1)
    return pd.DataFrame(
        {
            "item_id": item_id,
            "item_name": pd.Series(item_id).map("item {}".format),
            "item_category": pd.array(category, dtype="Int64"),
            "item_tags": list((category[:, None] * 5 + rng.integers(0, 9, (n, 3))) % 300),
            "item_brand": brands[brand],
            "item_price_usd": np.exp(rng.normal(3, 0.8, n) + 0.3 * hidden.item_quality).astype("float32"),
            **{f"item_style_{at}": style[:, at].astype("float32") for at in range(WIDTH)},
            "item_is_available": rng.random(n) > 0.01,
        }
    )


def _interactions(hidden: Hidden, rng: np.random.Generator) -> pd.DataFrame:
    events = np.minimum(rng.geometric(1 / MEAN_EVENTS, len(hidden.user_category)), MOST_EVENTS)
    users = np.repeat(np.arange(len(events)), events)
    draw = _Draw(hidden, rng)
    blocks = [draw.items(users[at : at + BLOCK]) for at in range(0, len(users), BLOCK)]
    items, clicks = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    seconds = rng.integers(0, DAYS * 86_400, len(users))
    frame = pd.DataFrame(
        {
            "user_id": users + 1,
            "item_id": items + 1,
            "timestamp": (END - pd.Timedelta(days=DAYS)) + pd.to_timedelta(seconds, unit="s"),
            "is_click": pd.array(clicks.astype(np.int64), dtype="Int64"),
            "context_surface": pd.array(rng.integers(0, 3, len(users)), dtype="Int64"),
        }
    )
    return frame.drop_duplicates(["user_id", "item_id"], ignore_index=True)


class _Draw:
    """Shows items by popularity, most of the user's category, and lets the taste choose."""

    def __init__(self, hidden: Hidden, rng: np.random.Generator) -> None:
        self.hidden, self.rng = hidden, rng
        self.order = np.argsort(hidden.item_category, kind="stable")
        self.until = np.cumsum(hidden.popularity[self.order])
        ends = np.searchsorted(hidden.item_category[self.order], np.arange(CATEGORIES + 1))
        self.edges = np.concatenate([[0.0], self.until])[ends]

    def items(self, users: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Takes users (rows,), gives an item of each and whether it was clicked."""
        hidden, shape = self.hidden, (len(users), SHOWN)
        category = hidden.user_category[users][:, None]
        is_own = self.rng.random(shape) < OWN_CATEGORY
        low = np.where(is_own, self.edges[category], 0.0)
        high = np.where(is_own, self.edges[category + 1], 1.0)
        at = np.searchsorted(self.until, low + (high - low) * self.rng.random(shape))
        shown = self.order[np.minimum(at, len(self.order) - 1)]
        liking = np.einsum("ud,usd->us", hidden.user_taste[users], hidden.item_taste[shown])
        best = np.argmax(4 * liking + self.rng.gumbel(size=shape), axis=1)
        rows = np.arange(len(users))
        logit = 4 * liking[rows, best] + 0.5 * hidden.item_quality[shown[rows, best]] - 2.5
        return shown[rows, best], self.rng.random(len(users)) < 1 / (1 + np.exp(-logit))
