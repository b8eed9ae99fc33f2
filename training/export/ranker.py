"""Exports the ranker, which takes users apart from candidates; refuses a graph unlike its model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from contract.arrays import Array, Floats
from contract.bundle import Inputs, RankerSpec
from contract.encoders import Field
from training.export.towers import compare, model_spec
from training.ranking.model import RankingModel

CANDIDATES = 8
"""Candidates of each user on whom the export is compared with its model."""


def ranker_spec(
    features: Sequence[str], fields: Mapping[str, Field], of_candidates: Collection[str], file: str
) -> RankerSpec:
    """Takes the ranker's features and which of them are candidates', gives what the exported model takes."""

    def inputs(names: Sequence[str]) -> Inputs:
        spec = model_spec(names, fields, "", "")
        return Inputs(categorical=spec.categorical, numeric=spec.numeric, lists=spec.lists)

    return RankerSpec(
        file=file,
        output="ranking_scores",
        user=inputs([name for name in features if name not in of_candidates]),
        candidate=inputs([name for name in features if name in of_candidates]),
    )


def export_ranker(ranker: RankingModel, spec: RankerSpec, sample: Mapping[str, Array], folder: Path) -> None:
    """Writes `spec.file` into `folder`, and compares it with the model on `sample`, encoded real rows.

    Each row is scored as a user of its own, and each row's item as a candidate of several users.

    Raises:
        ExportError: an output differs by more than `TOLERANCE`, or is not a number.
    """
    path = folder / spec.file
    path.write_bytes(ranker.to_onnx(spec).SerializeToString())
    rows = len(next(iter(sample.values())))
    for k in (1, min(CANDIDATES, rows)):
        users = np.arange(rows // k)
        candidates = np.random.default_rng(k).permutation(rows)[: len(users) * k].reshape(-1, k)
        user = {name: sample[name][users] for name in spec.user.columns}
        candidate = {name: sample[name][candidates] for name in spec.candidate.columns}
        flat = {name: sample[name][np.repeat(users, k)] for name in spec.user.columns}
        flat |= {name: sample[name][candidates.ravel()] for name in spec.candidate.columns}
        expected = ranker.predict_candidates(flat).reshape(-1, k)
        compare(spec.file, run_ranker(path, spec, user, candidate), expected)


def run_ranker(
    path: Path, spec: RankerSpec, user: Mapping[str, Array], candidate: Mapping[str, Array]
) -> Floats:
    """Runs an exported ranker on encoded columns of users, (B,) or lists (B,S), and of their candidates.

    Those are (B,K) or lists (B,K,L). Gives P of each candidate, (B,K).
    """
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = spec.user.pack(user, "user_") | spec.candidate.pack(candidate, "candidate_")
    scores: Floats = session.run([spec.output], inputs)[0]
    return scores
