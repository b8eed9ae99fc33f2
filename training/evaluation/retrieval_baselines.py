"""What simpler models retrieve from the same interactions, each in the form that validation prefers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.sparse import csr_matrix

from contract import names
from contract.arrays import Bools, Ints
from contract.dataset import ANY
from contract.whole_file import whole_file
from training.baselines.blend import blend
from training.baselines.ease import Ease, ease_weights
from training.baselines.item_knn import ItemKNN
from training.baselines.markov import Markov
from training.baselines.recent_popularity import HALF_LIVES, RecentPopularity
from training.baselines.top_pop import TopPop
from training.data.prepared import Prepared
from training.examples.sequences import Sequences
from training.examples.split import (
    HeldOut,
    first_users,
    held_out,
    interaction_matrix,
    is_before,
    is_positive,
    labels_to_learn_from,
)
from training.features.activity import event_times
from training.metrics.lists import CUTOFFS, Scorer, ranked, retrieval_metrics

DEPTH = max(CUTOFFS)
FOLDER = "baselines"
CODE = Path(__file__).parents[1]
MADE_BY = ("baselines/*.py", "metrics/lists.py", "evaluation/retrieval_baselines.py", "examples/s*.py")
"""The files that the lists depend on."""
DENSE_ITEMS = 10_000
"""Items up to which the baselines that need an (I,I) matrix are fitted."""
CHOICE_USERS = 500
"""Most users of validation on whom a baseline's form is chosen."""
RIDGE = 500.0
"""EASE's penalty, in users."""
DECAYS = (0.5, 0.8, 0.9, 0.95, 0.98)
"""What an item weighs against the next newer one where EASE is asked by recency."""
PRIORS = (0.003, 0.01, 0.03, 0.1)
"""Weights of the log popularity beside EASE."""
CHAIN_WEIGHTS = (0.3, 1.0, 3.0)
"""Weights of the chain's z-scores beside EASE's."""


class Question:
    """The users of a held-out part, and everything that they, or all, did before its start."""

    def __init__(self, prepared: Prepared, held: HeldOut, instant: datetime) -> None:
        self.prepared, self.held, self.instant = prepared, held, instant
        self._sequences: dict[str, Sequences] = {}

    def history(self, label: str, decay: float = 1.0) -> csr_matrix:
        """Gives what each held-out user did, any interaction or those whose label is 1, (U,I)."""
        if label not in self._sequences:
            self._sequences[label] = Sequences.of(self.prepared, self.instant, label)
        return self._sequences[label].weighted(decay)[self.held.user_rows]


Value = TypeVar("Value")
Answer = Callable[[Question], Scorer]
"""A fitted baseline, in one form."""


def answer_of(model: Any, label: str, decay: float = 1.0) -> Answer:
    """Asks a model with what users did: any interaction or positives, and how much more the newest count."""

    def answer(question: Question) -> Scorer:
        history = question.history(label, decay)
        return lambda rows: model.score(history[rows])

    return answer


def blended(one: Answer, other: Answer, weight: float) -> Answer:
    """Adds the z-scores of two, the other's `weight` times."""

    def answer(question: Question) -> Scorer:
        first, second = one(question), other(question)
        return lambda rows: blend(first(rows), second(rows), weight)

    return answer


def baseline_lists(prepared: Prepared, held: HeldOut) -> dict[str, Ints]:
    """Gives the best `DEPTH` unseen items of every held-out user of the test part, by each baseline; (U,K).

    What the same code made of the same interactions is read from the data set's folder.
    """
    path = prepared.folder / FOLDER / f"{_digest(prepared, held)[:16]}.npz"
    if path.exists():
        with np.load(path) as lists:
            return {name: lists[name].astype(np.int64) for name in lists.files}
    question = Question(prepared, held, prepared.split.validate_until)
    answers = RetrievalBaselines(prepared).answers()
    made = {name: ranked(answer(question), held.seen, DEPTH) for name, answer in answers.items()}
    path.parent.mkdir(exist_ok=True)
    narrow: dict[str, Any] = {name: lists.astype(np.int32) for name, lists in made.items()}
    with whole_file(path) as file:
        np.savez_compressed(file, **narrow)
    return made


def _digest(prepared: Prepared, held: HeldOut) -> str:
    """A hash of all that the lists are made of: interactions, parts, and code."""
    log, dataset = prepared.interactions, prepared.dataset
    digest = hashlib.sha256(repr((prepared.split, dataset.target)).encode())
    is_target = is_positive(prepared, dataset.target)
    for values in (
        log[names.USER_ID],
        log[names.ITEM_ID],
        event_times(dataset, log).astype("int64"),
        is_target,
    ):
        digest.update(np.ascontiguousarray(values).tobytes())
    for part in (prepared.items[names.ITEM_ID].to_numpy(np.int64), held.user_ids, held.seen.indices):
        digest.update(part.tobytes())
    for file in sorted(file for files in MADE_BY for file in CODE.glob(files)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


class RetrievalBaselines:
    """Baselines fitted on the train part; validation chooses on which of it, and what they are asked with."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared, self.until = prepared, prepared.split.train_until
        held = first_users(held_out(prepared, self.until, prepared.split.validate_until), CHOICE_USERS)
        self.validation = Question(prepared, held, self.until)
        self.labels = labels_to_learn_from(prepared, self.until)
        is_known = is_before(prepared, self.until)
        self.fitted_on = {label: interaction_matrix(prepared, is_known, label) for label in self.labels}

    def answers(self) -> dict[str, Answer]:
        """Gives each baseline by its name; of many items, those that need no (I,I) matrix."""
        popular = self._popular()
        chain = self._best([answer_of(self._chain(label), label, decay=0) for label in self.labels])
        found = {
            "TopPop": answer_of(popular, ANY),
            "recent popularity": self._best([self._recent(*form) for form in self._forms(HALF_LIVES)]),
            "Markov": chain,
        }
        if len(self.prepared.items) > DENSE_ITEMS:
            return found
        knn = {label: ItemKNN(self.fitted_on[label]) for label in self.labels}
        found["ItemKNN"] = self._best([answer_of(knn[fit], asks) for fit, asks in self._forms(self.labels)])
        weights = {label: ease_weights(self.fitted_on[label], RIDGE) for label in self.labels}
        forms = {form: answer_of(Ease(weights[form[0]]), form[1]) for form in self._forms(self.labels)}
        ease = self._best([*forms.values()])
        fit, asks = next(form for form, answer in forms.items() if answer is ease)
        recency = [answer_of(Ease(weights[fit]), label, decay) for decay, label in self._forms(DECAYS)]
        with_prior = [answer_of(Ease(weights[fit], popular.counts, prior), asks) for prior in PRIORS]
        by_recency = self._best(recency)
        chained = [blended(linear, chain, w) for linear, w in product((ease, by_recency), CHAIN_WEIGHTS)]
        return found | {
            "EASE": ease,
            "EASE with popularity": self._best(with_prior),
            "recency EASE": by_recency,
            "Markov with EASE": self._best(chained),
        }

    def _forms(self, values: Iterable[Value]) -> list[tuple[Value, str]]:
        return [*product(values, self.labels)]

    def _best(self, answers: Sequence[Answer]) -> Answer:
        """Chooses by NDCG@10 on validation; the first, where nobody is in it."""
        held = self.validation.held
        if len(answers) == 1 or not len(held.user_rows):
            return answers[0]
        return max(answers, key=self._on_validation)

    def _on_validation(self, answer: Answer) -> float:
        held = self.validation.held
        values = retrieval_metrics(answer(self.validation), held.relevant, held.seen, cutoffs=(10,))
        return float(np.nanmean(values["ndcg@10"]))

    def _popular(self) -> TopPop:
        is_known = is_before(self.prepared, self.until) & self._is_timed()
        return TopPop(interaction_matrix(self.prepared, is_known, self.prepared.dataset.target))

    def _chain(self, label: str) -> Markov:
        return Markov(Sequences.of(self.prepared, self.until, label).transitions())

    def _recent(self, share: float, label: str) -> Answer:
        """Counts up to the instant that is asked about, which is news to nobody."""
        counted = self._is_timed() & is_positive(self.prepared, label)

        def answer(question: Question) -> Scorer:
            selected = counted & is_before(self.prepared, question.instant)
            model = RecentPopularity.of(self.prepared, selected, share, question.instant)
            return answer_of(model, ANY)(question)

        return answer

    def _is_timed(self) -> Bools:
        timed: Bools = self.prepared.interactions[self.prepared.dataset.timestamp].notna().to_numpy()
        return timed
