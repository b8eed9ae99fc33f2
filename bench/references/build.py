"""What the builds of both references share: their arguments, the stages that they have in common."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.arguments import USERS_FILE, build_arguments
from bench.references.repository import CHECKED, ENSEMBLE, Stage, write_repository
from bench.references.rows import Inputs, Rows, Tensor, item_rows, raw_tensors, save_compared, user_rows
from contract import affinity
from contract.bundle import ENCODERS_FILE, Manifest, read_dataset, read_manifest
from contract.dataset import DATASET_FILE, Dataset
from contract.encoders import Encoders

HERE = Path(__file__).parent
SAVED_MODEL = HERE.parent / "stock" / "saved_model.py"
REQUEST = Tensor("user_id_raw", np.int64)
CANDIDATES = Tensor("item_id_raw", np.int64)
COMPARED_FILE = "compared.npz"
TEMPERATURE = 10.0
"""Of the published softmax sampling."""


@dataclass(frozen=True)
class Given:
    """What a reference is built from and where to; `k` candidates, `n` items answered."""

    bundle: Path
    saved_models: Path
    target: Path
    k: int
    n: int
    manifest: Manifest
    dataset: Dataset
    inputs: Inputs
    users: Rows
    items: Rows


def arguments(description: str | None) -> Given:
    """Reads the arguments and the tables that both references store; begins the target folder anew."""
    given = build_arguments(description)
    dataset, encoders = read_dataset(given.bundle), Encoders.load(given.bundle / ENCODERS_FILE)
    inputs = Inputs.read(given.saved_models, dataset)
    save_compared(given.features, dataset, given.target / COMPARED_FILE)
    return Given(
        bundle=given.bundle,
        saved_models=given.saved_models,
        target=given.target,
        k=given.k,
        n=given.n,
        manifest=read_manifest(given.bundle),
        dataset=dataset,
        inputs=inputs,
        users=user_rows(given.features, dataset, encoders, inputs),
        items=item_rows(given.features, dataset, encoders, inputs),
    )


def write_stages(given: Given, lookup: Stage, candidates: tuple[Stage, ...]) -> None:
    """Writes the chain: the given stages, and the user tower, unrolling, ranker and sampling around them."""
    inputs = given.inputs
    score = Tensor(inputs.score, np.float32)
    of_users = tuple(t for t in inputs.ranker if t in inputs.user)
    recents = raw_tensors(given.dataset)
    ordered = (Tensor("ordered_ids", np.int64), Tensor("ordered_scores", np.float32))
    told = {
        "item_columns": [t.name for t in inputs.item],
        "user_columns": [t.name for t in of_users],
        "context": inputs.context,
        "made": inputs.made,
    }
    stages = (
        lookup,
        Stage(
            "user-embeddings",
            SAVED_MODEL,
            inputs.tower,
            (inputs.vector,),
            files=(given.saved_models / "user_tower",),
        ),
        *candidates,
        Stage(
            "unroll-features",
            HERE / "unroll.py",
            (CANDIDATES, *inputs.item, *of_users, *recents),
            (CANDIDATES, *inputs.ranker),
            told,
            files=tuple(
                folder / name
                for folder, name in (
                    (given.target, COMPARED_FILE),
                    (given.bundle, ENCODERS_FILE),
                    (given.bundle, DATASET_FILE),
                )
            ),
        ),
        Stage("ranking", SAVED_MODEL, inputs.ranker, (score,), files=(given.saved_models / "ranker",)),
        Stage(
            "softmax-sampling",
            HERE / "softmax_sampling.py",
            (CANDIDATES, score),
            ordered,
            {"n": given.n, "temperature": TEMPERATURE, "score": inputs.score},
        ),
    )
    ensembles = {ENSEMBLE: ordered, CHECKED: (*ordered, CANDIDATES, score)}
    write_repository(given.target / "models", stages, REQUEST, ensembles)


def finish(given: Given) -> None:
    """Writes which users may be asked for: those with a history."""
    lists = [given.users.columns[name] for name in affinity.LISTS]
    is_known = np.logical_and.reduce([(codes != 0).any(axis=1) for codes in lists])
    (given.target / USERS_FILE).write_text(json.dumps(given.users.ids[is_known].tolist()))
