"""What the builds of both references share: their arguments, the stages that they have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.arguments import USERS_FILE, build_arguments
from bench.references.repository import CHECKED, ENSEMBLE, Stage, write_repository
from bench.references.rows import (
    Pack,
    Rows,
    Tensor,
    item_packs,
    item_rows,
    raw_name,
    save_compared,
    user_packs,
    user_rows,
)
from contract import affinity
from contract.bundle import ENCODERS_FILE, Inputs, Manifest, read_dataset, read_manifest
from contract.dataset import DATASET_FILE, Dataset
from contract.encoders import Encoders

HERE = Path(__file__).parent
MODEL, MODEL_FILE = HERE / "onnx_model.py", "model.onnx"
REQUEST = Tensor("user_id_raw", np.int64)
CANDIDATES = Tensor("item_id_raw", np.int64)
CONTEXT, USER_ITEM = "context", "user_item"
COMPARED_FILE = "compared.npz"
TEMPERATURE = 10.0
"""Of the published softmax sampling."""
Sources = dict[str, tuple[tuple[str, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class Given:
    """What a reference is built from and where to; `k` candidates, `n` items answered."""

    bundle: Path
    target: Path
    k: int
    n: int
    manifest: Manifest
    dataset: Dataset
    user_packs: tuple[Pack, ...]
    item_packs: tuple[Pack, ...]
    users: Rows
    items: Rows

    @property
    def user_tensors(self) -> tuple[Tensor, ...]:
        """Describes a user's row as the models take it."""
        return tuple(pack.tensor for pack in self.user_packs)

    @property
    def raw_tensors(self) -> tuple[Tensor, ...]:
        """Describes a user's recent items, raw, as the user-item features need them."""
        lengths = {name: column.max_length for name, column in self.dataset.user_activity.items()}
        return tuple(Tensor(raw_name(name), np.int64, lengths[name]) for name in affinity.LISTS)

    @property
    def item_tensors(self) -> tuple[Tensor, ...]:
        """Describes an item's row."""
        return tuple(pack.tensor for pack in self.item_packs)

    @property
    def vector(self) -> Tensor:
        """What the user tower gives."""
        return Tensor(self.manifest.user_tower.output, np.float32, self.manifest.vector_width)


def arguments(description: str | None) -> Given:
    """Reads the arguments and the tables that both references store; begins the target folder anew."""
    given = build_arguments(description)
    manifest, dataset = read_manifest(given.bundle), read_dataset(given.bundle)
    encoders = Encoders.load(given.bundle / ENCODERS_FILE)
    of_users, of_items = user_packs(manifest), item_packs(manifest, dataset)
    save_compared(given.features, dataset, given.target / COMPARED_FILE)
    return Given(
        bundle=given.bundle,
        target=given.target,
        k=given.k,
        n=given.n,
        manifest=manifest,
        dataset=dataset,
        user_packs=of_users,
        item_packs=of_items,
        users=user_rows(given.features, dataset, encoders, of_users),
        items=item_rows(given.features, dataset, encoders, of_items),
    )


def write_stages(given: Given, lookup: Stage, candidates: tuple[Stage, ...]) -> None:
    """Writes the chain: the given stages, and the user tower, unrolling, ranker and sampling around them."""
    tower, ranker = given.manifest.user_tower, given.manifest.ranker
    score = Tensor(ranker.output, np.float32)
    made = affinity.user_item_feature_names(given.dataset)
    context = given.manifest.context
    extra = (
        Pack(Tensor(CONTEXT, np.int64, len(context)), context),
        Pack(Tensor(USER_ITEM, np.float32, len(made)), made),
    )
    packs = (*given.user_packs, *given.item_packs, *extra)
    of_tower = sources(tower, "", packs)
    of_ranker = sources(ranker.user, "user_", packs) | sources(ranker.candidate, "candidate_", packs)
    of_users = tensors_of(of_ranker, given.user_tensors)
    unrolled = (*given.item_tensors, *of_users, *tensors_of(of_ranker, [pack.tensor for pack in extra]))
    ordered = (Tensor("ordered_ids", np.int64), Tensor("ordered_scores", np.float32))
    stages = (
        lookup,
        Stage(
            "user-embeddings",
            MODEL,
            tensors_of(of_tower, given.user_tensors),
            (given.vector,),
            {"sources": of_tower},
            files={given.bundle / tower.file: MODEL_FILE},
        ),
        *candidates,
        Stage(
            "unroll-features",
            HERE / "unroll.py",
            (CANDIDATES, *given.item_tensors, *of_users, *given.raw_tensors),
            (CANDIDATES, *unrolled),
            {"of_items": [t.name for t in given.item_tensors], "of_users": [t.name for t in of_users]},
            files={
                given.target / COMPARED_FILE: COMPARED_FILE,
                given.bundle / ENCODERS_FILE: ENCODERS_FILE,
                given.bundle / DATASET_FILE: DATASET_FILE,
            },
        ),
        Stage(
            "ranking",
            MODEL,
            unrolled,
            (score,),
            {"sources": of_ranker},
            files={given.bundle / ranker.file: MODEL_FILE},
        ),
        Stage(
            "softmax-sampling",
            HERE / "softmax_sampling.py",
            (CANDIDATES, score),
            ordered,
            {"n": given.n, "temperature": TEMPERATURE, "score": score.name},
        ),
    )
    ensembles = {ENSEMBLE: ordered, CHECKED: (*ordered, CANDIDATES, score)}
    write_repository(given.target / "models", stages, REQUEST, ensembles)


def sources(inputs: Inputs, prefix: str, packs: Sequence[Pack]) -> Sources:
    """Finds, for each packed input of a model, the tensors whose columns it takes, and which of
    these columns: all, in their order, where none are named."""
    found: Sources = {name: ((name,), ()) for name in inputs.lists}
    for kind, wanted in (("categorical", inputs.categorical), ("numeric", inputs.numeric)):
        used = [pack for pack in packs if set(pack.columns) & set(wanted)]
        joined = [column for pack in used for column in pack.columns]
        if wanted:
            chosen = () if joined == list(wanted) else tuple(joined.index(column) for column in wanted)
            found[f"{prefix}{kind}"] = (tuple(pack.tensor.name for pack in used), chosen)
    return found


def tensors_of(found: Sources, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Keeps the tensors that the inputs of a model are made of."""
    used = {name for names, _ in found.values() for name in names}
    return tuple(tensor for tensor in tensors if tensor.name in used)


def finish(given: Given) -> None:
    """Writes which users may be asked for: those with a history."""
    is_known = np.logical_and.reduce(
        [(given.users.tensors[name] != 0).any(axis=1) for name in affinity.LISTS]
    )
    (given.target / USERS_FILE).write_text(json.dumps(given.users.ids[is_known].tolist()))
