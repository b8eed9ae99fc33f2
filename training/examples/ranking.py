"""What a ranking model learns from: encoded rows of both parts, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.arrays import Array
from contract.encoders import Encoders, Field
from training.data.prepared import Prepared
from training.examples.candidates import CandidateRows
from training.examples.exposures import RankingRows, RankingTable, concatenate

Floats = npt.NDArray[np.float32]

SAMPLE_ROWS = 512


@dataclass(frozen=True, eq=False)
class RankingParts:
    """The ranker's rows of each part of the data, made once for all seeds."""

    table: RankingTable
    train: RankingRows
    histories: RankingRows
    validation: RankingRows
    test: RankingRows

    @classmethod
    def of(cls, prepared: Prepared) -> RankingParts:
        """Makes the rows of each part. The test's features are as of its start."""
        split = prepared.split
        table = RankingTable.of(prepared)
        return cls(
            table=table,
            train=table.exposures(None, split.train_until),
            histories=table.histories(),
            validation=table.exposures(split.train_until, split.validate_until),
            test=table.exposures(split.validate_until, split.test_until, as_of=split.validate_until),
        )


@dataclass(frozen=True, eq=False)
class RankingExamples:
    """Encoded rows, columns (rows,) or for lists (rows, S), and their labels.

    `fields` are the columns that may be read. `labels` (rows,) or (rows, T) hold the target first, then
    auxiliary labels; NaN where unknown. `validation_labels` (rows,) are the target's. `candidates` were
    retrieved, not exposed: what is asked of the model when it serves. `weights` say how much each label's 1
    counts; without, all alike. `label_names` are the labels' columns.
    """

    fields: Mapping[str, Field]
    train: Mapping[str, Array]
    labels: Floats
    validation: Mapping[str, Array]
    validation_labels: Floats
    candidates: CandidateRows | None = None
    weights: tuple[float, ...] = ()
    label_names: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        prepared: Prepared,
        encoders: Encoders,
        parts: RankingParts,
        candidates: CandidateRows | None = None,
    ) -> RankingExamples:
        """Encodes the train part's exposures and histories, and the validation part's exposures."""
        dataset = prepared.dataset
        train = concatenate([parts.train, parts.histories]) if len(parts.histories) else parts.train
        first = dataset.labels.index(dataset.target)
        order = [first, *(at for at in range(len(dataset.labels)) if at != first)]
        return cls(
            fields=encoders.fields,
            train=train.encoded(encoders, dataset),
            labels=train.labels[:, order],
            validation=parts.validation.encoded(encoders, dataset),
            validation_labels=parts.validation.labels[:, first],
            candidates=candidates,
            weights=tuple(dataset.interactions[dataset.labels[at]].weight for at in order),
            label_names=tuple(dataset.labels[at] for at in order),
        )

    def sample(self, seed: int) -> dict[str, Array]:
        """Draws `SAMPLE_ROWS` of validation, to compare exports on."""
        rows = np.random.default_rng(seed).integers(0, len(self.validation_labels), SAMPLE_ROWS)
        return {name: values[rows] for name, values in self.validation.items()}

    def of_target(self, rows: int) -> RankingExamples:
        """Keeps those of the first `rows` whose target is known, and of the labels the target alone."""
        labels = self.labels.reshape(len(self.labels), -1)[:rows, 0]
        train, validation = ~np.isnan(labels), ~np.isnan(self.validation_labels)
        return RankingExamples(
            fields=self.fields,
            train={name: values[:rows][train] for name, values in self.train.items()},
            labels=labels[train],
            validation={name: values[validation] for name, values in self.validation.items()},
            validation_labels=self.validation_labels[validation],
            label_names=self.label_names[:1],
        )


def target_labels(prepared: Prepared, rows: RankingRows) -> Floats:
    """Gives the target of every row: 0, 1 or NaN."""
    return rows.labels[:, prepared.dataset.labels.index(prepared.dataset.target)]
