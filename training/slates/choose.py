"""Chooses on the validation part which form each source takes, and how many candidates it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy.sparse import csr_matrix

from contract.arrays import Doubles
from training.baselines.recent_popularity import HALF_LIVES
from training.data.prepared import Prepared
from training.examples.split import HeldOut, first_users, held_out, labels_to_learn_from
from training.metrics.lists import list_metrics
from training.slates.sources import (
    CATEGORIES,
    FOLLOWED,
    POPULAR,
    SIMILAR,
    FittedSource,
    RecentLists,
    SourceForm,
    SourceLists,
    fit_source,
    lists_of,
)

CHOICE_USERS = 1_000
"""Most users of validation on whom forms are chosen."""
SHARES = (0.0, 0.1, 0.2, 0.35)
"""What a source may have of the K candidates; with none, it still says what it says of the others'."""
SURE = 2.0
"""Standard errors over users that a share has to gain: of so many that are tried at once, one gains a single
error by chance."""
LEAST_OF_VECTORS = 0.1
"""What remains to the vectors, at least."""


@dataclass(frozen=True, eq=False)
class _ValidationUsers:
    """Users of validation, and what was known of them when the train part ended."""

    held: HeldOut
    recent: RecentLists
    items: int

    @classmethod
    def of(cls, prepared: Prepared) -> _ValidationUsers:
        split = prepared.split
        held = first_users(held_out(prepared, split.train_until, split.validate_until), CHOICE_USERS)
        return cls(held, RecentLists.of(prepared, split.train_until), len(prepared.items))

    def ndcg(self, source: FittedSource) -> float:
        """Gives NDCG@10 of what a source finds alone; 0 where nobody is asked."""
        users = len(self.held.user_rows)
        if not users:
            return 0.0
        nowhere = np.zeros((users, 1), np.float32), np.zeros((self.items, 1), np.float32)
        lists = lists_of([source], self.recent, self.held, nowhere, 10).positions[:, 1]
        return float(np.nanmean(list_metrics(lists, self.held.relevant, cutoffs=(10,))["ndcg@10"]))


def choose_forms(prepared: Prepared) -> list[FittedSource]:
    """Chooses each source's form by its own NDCG@10 on validation, and gives it fitted on the train part; the
    first form, where nobody is in validation. What is popular in the user's categories is counted as what is
    popular at all."""
    split = prepared.split
    labels = labels_to_learn_from(prepared, split.train_until)[::-1]
    validation = _ValidationUsers.of(prepared)
    offered = (
        [SourceForm(FOLLOWED)],
        [SourceForm(SIMILAR, label) for label in labels],
        [SourceForm(POPULAR, label, half_life) for label, half_life in product(labels, HALF_LIVES)],
    )
    chosen = []
    for forms in offered:
        fitted = [fit_source(prepared, form, split.train_until) for form in forms]
        values = [validation.ndcg(source) for source in fitted] if len(forms) > 1 else [0.0]
        chosen.append(fitted[int(np.argmax(values))])
    if prepared.dataset.affinity:
        chosen.append(fit_source(prepared, replace(chosen[-1].form, name=CATEGORIES), split.train_until))
    return chosen


def is_next_asked(prepared: Prepared, sources: Sequence[FittedSource]) -> bool:
    """Whether on validation what follows the newest items is worth more than what is similar to all of them:
    so that what a user looks for is what comes next more than what lasts."""
    by_name, validation = {source.form.name: source for source in sources}, _ValidationUsers.of(prepared)
    return validation.ndcg(by_name[FOLLOWED]) > validation.ndcg(by_name[SIMILAR])


def choose_sources(
    lists: SourceLists, relevant: csr_matrix, sources: Sequence[FittedSource]
) -> tuple[FittedSource, ...]:
    """Gives each source the share with which all together find most of what held-out users chose, (U,I),
    among as many candidates as the lists, (U,S,K), are deep.

    From the vectors alone on, the one share is changed that gains most, of those that gain more than `SURE`
    standard errors, until there is none: what chance gave would be lost on others.
    """
    best: tuple[float, ...] = (SHARES[0],) * len(sources)
    found = _recall(lists, relevant, best)
    while True:
        tried = {shares: _recall(lists, relevant, shares) for shares in _changed(best)}
        gains = {shares: values - found for shares, values in tried.items()}
        least = SURE / np.sqrt(len(found))
        sure = [shares for shares, gain in gains.items() if gain.mean() > least * gain.std()]
        if not sure:
            break
        best = max(sure, key=lambda shares: float(gains[shares].mean()))
        found = tried[best]
    return tuple(one.with_share(share) for one, share in zip(sources, best, strict=True))


def _changed(shares: tuple[float, ...]) -> list[tuple[float, ...]]:
    """Lists what the shares may become by a change of one."""
    changed = [(*shares[:at], share, *shares[at + 1 :]) for at in range(len(shares)) for share in SHARES]
    return [one for one in changed if one != shares and sum(one) <= 1 - LEAST_OF_VECTORS]


def _recall(lists: SourceLists, relevant: csr_matrix, shares: Sequence[float]) -> Doubles:
    """Gives what each user finds of what is relevant, (U,)."""
    k = lists.positions.shape[2]
    return list_metrics(lists.merged(shares), relevant, cutoffs=(k,))[f"recall@{k}"]
