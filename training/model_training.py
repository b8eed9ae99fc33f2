"""The training of a bundle's two models with one seed after the other, recorded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from contract.encoders import Encoders
from training.config import TrainingSettings
from training.data.prepared import Prepared
from training.examples.ranking import RankingExamples, RankingParts
from training.learn import fit_encoders, fit_retriever, make_candidates
from training.metrics.ranking import log_loss, reliability
from training.models import chosen_ranking
from training.progress import TrainingProgress
from training.ranking.model import RankingModel
from training.record import BEST, RANKING, RETRIEVAL, TrainingRecord
from training.recording import add_curves
from training.slates.slates import Retriever


@dataclass(frozen=True, eq=False)
class ModelTraining:
    """What both models are trained on, and where it is told how that goes."""

    prepared: Prepared
    settings: TrainingSettings
    parts: RankingParts
    examples: RankingExamples
    encoders: Encoders
    steps: TrainingProgress
    record: TrainingRecord

    @classmethod
    def of(
        cls, prepared: Prepared, settings: TrainingSettings, steps: TrainingProgress, record: TrainingRecord
    ) -> ModelTraining:
        """Makes the rows and fits the workflow."""
        with steps.step("Make the ranker's rows"):
            parts = RankingParts.of(prepared)
            counts = (len(parts.train), len(parts.histories), len(parts.validation))
            steps.say("{:,} train, {:,} of histories, {:,} validation".format(*counts))
        with steps.step("Fit the workflow"):
            encoders = fit_encoders(prepared, parts.train)
            examples = RankingExamples.of(prepared, encoders, parts)
        return cls(prepared, settings, parts, examples, encoders, steps, record)

    def retrieval(self, seed: int) -> Retriever:
        """Trains the retrieval model."""
        with self.steps.step(f"Train retrieval, seed {seed}"):
            retriever = fit_retriever(self.prepared, self.encoders, self.settings, seed)
            if fresh_share(retriever):
                self.steps.say("ended with users as of just before: validation gained by it")
        add_curves(self.record, RETRIEVAL, retriever.model, seed, self.settings.seed)
        return retriever

    def ranking(self, retriever: Retriever, seed: int) -> RankingModel:
        """Trains the ranker on exposures and on what the retriever finds; records what the first seed's says
        of validation's exposures."""
        with self.steps.step(f"Train the ranker, seed {seed}"):
            prepared, k, table = self.prepared, self.settings.k, self.parts.table
            candidates = make_candidates(prepared, self.encoders, table, retriever, k, seed)
            ranker = chosen_ranking(self.settings)(replace(self.examples, candidates=candidates), seed)
        add_curves(self.record, RANKING, ranker, seed, self.settings.seed)
        known = ~np.isnan(self.examples.validation_labels)
        if seed == self.settings.seed and known.any():
            labels, scores = self.examples.validation_labels, ranker.predict(self.examples.validation)
            self.record.metric(f"{RANKING}/{BEST}", log_loss(labels[known], scores[known]))
            self.record.table("calibration", reliability(labels[known], scores[known]))
        return ranker


def fresh_share(retriever: Retriever) -> float:
    """Gives the share of users as of just before that the training of vectors ended with; 0 of a model that
    does not choose."""
    return float(getattr(retriever.model, "fresh_share", 0.0))
