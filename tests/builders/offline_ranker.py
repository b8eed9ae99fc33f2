"""The ranker as it was trained, away from the servers: TensorFlow's network, asked with the prepared data.

Nothing of serving takes part: no ONNX, no feature store, no stage of the chain.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from contract.bundle import ENCODERS_FILE, read_manifest
from contract.encoders import Encoders
from contract.features import FOLDER, FeatureSet
from contract.ids import OwnId, number_of
from contract.names import ITEM_ID
from training.data.prepared import load_prepared
from training.examples.safe_names import safe_name
from training.examples.snapshot import Candidates, items_as_of, users_as_of
from training.examples.split import all_user_ids, rows_of
from training.export.saved_models import FOLDER as SAVED_MODELS


def ranker_scores(bundle: Path, asked: list[tuple[OwnId, list[OwnId]]]) -> list[list[float]]:
    """Scores users' items, all by their own ids, with the ranker that a bundle was exported from, as of the
    instant of the features that were brought to Redis."""
    manifest, var = read_manifest(bundle), bundle.parents[1]
    prepared = load_prepared(var / "data" / manifest.dataset)
    as_of = FeatureSet.read(prepared.folder / FOLDER).as_of
    candidates = Candidates(
        prepared.dataset,
        Encoders.load(bundle / ENCODERS_FILE),
        users_as_of(prepared, as_of),
        items_as_of(prepared, as_of),
    )
    loaded = tf.saved_model.load(str(var / SAVED_MODELS / manifest.bundle / "ranker"))
    network = loaded.signatures["serving_default"]
    _, taken = network.structured_input_signature
    scores = []
    for user, items in asked:
        of_user = rows_of(all_user_ids(prepared), np.array([number_of(user, manifest.user_id_dtype)]))
        numbers = np.array([[number_of(item, manifest.item_id_dtype) for item in items]])
        of_items = rows_of(prepared.items[ITEM_ID].to_numpy(np.int64), numbers)
        assert min(of_user.min(), of_items.min()) >= 0, "prepared data know whom they are asked about"
        named = {safe_name(name): it for name, it in candidates.columns(of_user, of_items).items()}
        given = {name: tf.constant(named[name], spec.dtype) for name, spec in taken.items()}
        (output,) = network(**given).values()
        scores.append(output.numpy().tolist())
    return scores


def write_scores(bundle: str, asked: str) -> None:
    """Writes the scores to standard output as JSON, of what is asked as JSON."""
    sys.stdout.write(json.dumps(ranker_scores(Path(bundle), json.loads(asked))))
