"""`python -m bench.scale.build`: trains a bundle of a whole catalogue on a sample of its users.

The towers and the ranker learn from what the sampled users did, as `make train` teaches them; then the
trained item tower encodes every item of the catalogue. Ids that the sample does not hold are unknown to the
models, which know those items and users by their features.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np

from bench.scale.world import make_world
from contract import names
from contract.bundle import BundleError, OrderSpec, read_manifest
from contract.bundles import CURRENT, bundles_folder
from training.config import TrainingSettings, load_settings
from training.data.prepared import Prepared
from training.examples.positives import UserHistories, item_columns
from training.examples.ranking import RankingExamples, RankingParts
from training.examples.split import first_users, held_out
from training.export.write import point, staged, write_json
from training.learn import VALIDATION_USERS, fit_encoders, fit_retriever, learn_slates
from training.models import chosen_ranking
from training.pipeline import set_threads, write_bundle
from training.progress import TrainingProgress
from training.slates.search import evaluate_vectors
from training.slates.slates import Learned

SAMPLE_USERS = 20_000
"""Users whose interactions the models learn from."""
SPARE_ITEMS = 5_000
"""Items that no sampled user met, beside those that some did: what the towers must generalise to."""
ASKING_USERS = 5_000
"""Users of whom the bundle's user vectors are drawn, with their whole history."""


def restricted(world: Prepared, users: np.ndarray, spare: np.ndarray | None) -> Prepared:
    """Keeps some users and their interactions; with `spare`, only the items they met and these."""
    log = world.interactions[world.interactions[names.USER_ID].isin(users)].reset_index(drop=True)
    items = world.items
    if spare is not None:
        wanted = np.union1d(log[names.ITEM_ID].to_numpy(np.int64), spare)
        items = items[items[names.ITEM_ID].isin(wanted)].reset_index(drop=True)
    some = world.users[world.users[names.USER_ID].isin(users)].reset_index(drop=True)
    return replace(world, users=some, items=items, interactions=log)


def train(world: Prepared, name: str, settings: TrainingSettings, steps: TrainingProgress) -> Path:
    """Trains on a sample, writes a bundle of the whole catalogue and makes it current; one there stays."""
    bundles = bundles_folder(settings.var_dir)
    try:
        read_manifest(bundles / name)
    except BundleError:
        learned, metrics = learn(world, settings, steps)
        with steps.step("Export, encode the catalogue"), staged(bundles, name) as folder:
            write_bundle(folder, name, world, settings, learned, metrics)
    point(bundles, name, CURRENT)
    return bundles / name


def learn(
    world: Prepared, settings: TrainingSettings, steps: TrainingProgress
) -> tuple[Learned, dict[str, object]]:
    """Trains both models on the sample; what is then made of them is of the whole catalogue."""
    rng = np.random.default_rng(settings.seed)
    user_ids, item_ids = (
        frame[key].to_numpy(np.int64)
        for frame, key in ((world.users, names.USER_ID), (world.items, names.ITEM_ID))
    )
    spare = rng.choice(item_ids, min(SPARE_ITEMS, len(item_ids)), replace=False)
    sampled = rng.choice(user_ids, min(SAMPLE_USERS, len(user_ids)), replace=False)
    sample = restricted(world, sampled, spare)
    counts = (len(sample.users), len(sample.items), len(sample.interactions))
    steps.say("learning from {:,} users, {:,} items, {:,} interactions".format(*counts))
    with steps.step("Fit the workflow"):
        parts = RankingParts.of(sample)
        encoders = fit_encoders(sample, parts.train)
        examples = RankingExamples.of(sample, encoders, parts)
    with steps.step("Train the two towers"):
        retriever = fit_retriever(sample, encoders, settings, settings.seed)
    with steps.step("Train the ranker"):
        ranker = chosen_ranking(settings)(examples, settings.seed)
        learned = Learned(encoders, retriever, ranker, examples.sample(settings.seed), OrderSpec())
        order = learn_slates(sample, learned, (), settings.k).order
    split = sample.split
    held = first_users(held_out(sample, split.validate_until, split.test_until), VALIDATION_USERS)
    found = evaluate_vectors(held, *retriever.vectors(held, split.validate_until))
    recall = float(np.nanmean(found["recall@100"]))
    steps.say(f"test recall@100 of what the sampled users chose later: {recall:.3f}")
    asking = restricted(world, rng.choice(user_ids, min(ASKING_USERS, len(user_ids)), replace=False), None)
    whole = replace(
        retriever,
        histories=UserHistories.of(asking, encoders),
        catalogue=item_columns(world, encoders),
    )
    facts = {"sampled_users": counts[0], "sampled_items": counts[1], "recall@100": recall}
    return replace(learned, retriever=whole, order=order), {"sections": {"retrieval": facts}}


def main() -> int:
    """Draws the world, trains, and notes how long each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--report", type=Path, required=True, help="where the times are written, as JSON")
    chosen = parser.parse_args()
    settings, steps = load_settings(), TrainingProgress()
    set_threads(settings.threads)
    started = time.monotonic()
    with steps.step("Draw the world"):
        world = make_world(chosen.users, chosen.items, settings.seed)
    drawn = time.monotonic()
    folder = train(world, f"scale-{chosen.items}", settings, steps)
    facts = {
        "interactions": len(world.interactions),
        "draw_s": drawn - started,
        "train_s": time.monotonic() - drawn,
        "bundle_mib": sum(path.stat().st_size for path in folder.iterdir()) / 2**20,
    }
    write_json(chosen.report, facts)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
