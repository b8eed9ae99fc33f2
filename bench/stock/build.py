"""Builds the stock ensemble's Triton repository from a bundle and the SavedModels of its training run.

Runs in the training environment: `python -m bench.stock.build --help`. Encoders, item vectors and
features are the bundle's, so that both ensembles answer from the same numbers.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from merlin.systems.dag.ops.faiss import setup_faiss

from bench.arguments import USERS_FILE, build_arguments
from bench.stock.feature_store import ITEM_VIEW, USER_VIEW, fill_feature_store, stock_columns, stock_tables
from bench.stock.graph import Parts, stock_ensemble
from bench.stock.operators import items_by_code
from bench.stock.workflow import notebook_workflow
from contract import affinity, names
from contract.bundle import (
    ENCODERS_FILE,
    ITEM_IDS_FILE,
    ITEM_TABLE_FILE,
    ITEM_VECTORS_FILE,
    read_dataset,
    read_manifest,
)
from contract.encoders import Encoders

CODES_FILE = "item_ids_by_code.npy"


def build(given: argparse.Namespace) -> None:
    """Writes the target folder: Feast project, FAISS index, `models/`, and what the asker must know.

    That is `users.json`, the users that this Feast project holds, and the item ids by the answered codes.
    """
    bundle, target = given.bundle, given.target
    manifest, dataset = read_manifest(bundle), read_dataset(bundle)
    encoders = Encoders.load(bundle / ENCODERS_FILE)
    columns = stock_columns(dataset)
    tables = stock_tables(given.features, columns, encoders)
    fill_feature_store(target / "feast", tables, columns)
    (target / USERS_FILE).write_text(json.dumps(tables[USER_VIEW][names.USER_ID].tolist()))

    vectors = list(np.load(bundle / ITEM_VECTORS_FILE))
    index = pd.DataFrame({names.ITEM_ID: np.load(bundle / ITEM_IDS_FILE), "embedding": vectors})
    setup_faiss(index, str(target / "index.faiss"))
    np.save(
        target / CODES_FILE,
        items_by_code(dataset, encoders, pd.read_parquet(bundle / ITEM_TABLE_FILE), target),
    )

    user_columns = {names.USER_ID: dataset.users[names.USER_ID], **columns[USER_VIEW]}
    item_columns = {names.ITEM_ID: dataset.items[names.ITEM_ID], **columns[ITEM_VIEW]}
    parts = Parts(
        feast_repo=target / "feast",
        user_workflow=notebook_workflow(tables[USER_VIEW], user_columns, encoders),
        item_workflow=notebook_workflow(tables[ITEM_VIEW], item_columns, encoders),
        user_tower=given.saved_models / "user_tower",
        ranker=given.saved_models / "ranker",
        faiss_index=target / "index.faiss",
        items=target,
        user_item_scales={n: encoders.scales[n] for n in affinity.user_item_feature_names(dataset)},
        context=manifest.context,
        score=manifest.ranker.output,
    )
    stock_ensemble(parts, given.k, given.n).export(str(target / "models"))
    for folder in (target / "models").glob("*_predicttensorflowtriton"):
        run_in_python(folder)


def run_in_python(folder: Path) -> None:
    """Replaces Triton's TensorFlow backend, no longer shipped, by a Python model that runs the SavedModel."""
    config = folder / "config.pbtxt"
    text = re.sub(r"^platform: .*\n", "", config.read_text(), flags=re.MULTILINE)
    config.write_text(text.replace('backend: "tensorflow"', 'backend: "python"'))
    shutil.copyfile(Path(__file__).with_name("saved_model.py"), folder / "1" / "model.py")


if __name__ == "__main__":
    build(build_arguments(__doc__))
