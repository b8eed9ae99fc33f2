"""The chain for everyone: the stages that answer requests, run on hundreds of users at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from batch.settings import BatchSettings, RetrievalMode
from contract.arrays import Ids
from contract.errors import ErrorCode, StageError
from contract.slates import Degradation, degradation_mask
from contract.tensors import PAD_ID, StageName, plain_request
from ensemble.bundle import LoadedBundle
from ensemble.graph import Stores
from ensemble.run.recommender import Recommender, redis_stores
from ensemble.settings import EnsembleSettings
from ensemble.stores.exact import ExactVectorIndex

UNKNOWN = degradation_mask([Degradation.UNKNOWN_USER])


@dataclass(frozen=True, eq=False)
class UserSlates:
    """The slates of users: all (B,) or (B,N), the tail of a short one PAD_ID and -inf."""

    user_ids: Ids
    item_ids: Ids
    item_scores: npt.NDArray[np.float32]
    degraded: Ids

    @property
    def lengths(self) -> npt.NDArray[np.intp]:
        """How many items each slate has, (B,)."""
        counts: npt.NDArray[np.intp] = (self.item_ids != PAD_ID).sum(axis=1)
        return counts

    def known(self) -> UserSlates:
        """Leaves out the users of whom nothing is known: for them the popular slate is as good."""
        is_known = (self.degraded & UNKNOWN) == 0
        return UserSlates(
            self.user_ids[is_known],
            self.item_ids[is_known],
            self.item_scores[is_known],
            self.degraded[is_known],
        )


class BatchChain:
    """Makes the slates of users from a bundle and the state of the stores."""

    def __init__(self, bundle: LoadedBundle, stores: Stores, settings: EnsembleSettings, n: int) -> None:
        self.bundle, self.stores, self.n = bundle, stores, n
        # Whoever explores logs the chance of each place with the answer; a stored slate has no such log.
        settings = settings.model_copy(update={"exploration_temperature": 0.0})
        self.recommender = Recommender(bundle, stores, settings)
        self.stage_us: Counter[str] = Counter()

    @classmethod
    def open(cls, settings: EnsembleSettings, batch: BatchSettings, verify: bool = True) -> BatchChain:
        """Opens the bundle, connects to Redis and reads the item features.

        Raises:
            BundleError: the bundle cannot be served.
            RedisError: Redis does not answer.
            StageError: its index is to be asked, and does not hold every item.
        """
        bundle = LoadedBundle.open(settings.bundle, settings.provider, settings.ort_threads, verify)
        patience = dict.fromkeys(("redis_timeout_ms", "index_timeout_ms"), batch.redis_timeout_ms)
        stores = redis_stores(bundle, settings.model_copy(update=patience))
        if batch.retrieval is RetrievalMode.EXACT:
            exact = ExactVectorIndex(bundle.item_ids, bundle.item_vectors)
            stores = replace(stores, vectors=exact, watch=None)
        elif stores.watch is not None and stores.redis is not None:
            stores.redis.ping()  # first: a new connection puts the index in doubt
            stores.watch.look()
            if not stores.vectors.is_whole:
                away = [f"index node {node} is away; " for node in stores.watch.away]
                raise StageError(
                    ErrorCode.DEPENDENCY,
                    StageName.RETRIEVE_CANDIDATES,
                    f"{''.join(away)}the index holds {stores.watch.found} of {bundle.manifest.items} items; "
                    f"wait until it holds all, run `make export`, or leave SHORTLIST_BATCH_RETRIEVAL out",
                )
        stores.items.load()
        chain = cls(bundle, stores, settings, batch.n)
        if stores.live is not None:
            stores.live.look(chain.recommender.renew)
        return chain

    def slates(self, user_ids: Ids, step: int) -> Iterator[UserSlates]:
        """Takes users (B,), gives their slates, at most `step` users at a time.

        Raises:
            StageError: a stage failed.
        """
        for start in range(0, len(user_ids), step):
            some = user_ids[start : start + step]
            if self.stores.watch is not None:
                self.stores.watch.look()
            table = self.recommender.run(plain_request(some, self.n, self.bundle.manifest.context))
            for name, duration_us in zip(self.recommender.stages, table["stage_us"][0].tolist(), strict=True):
                self.stage_us[name] += duration_us
            yield UserSlates(
                some,
                table["item_ids"][:, : self.n],
                table["item_scores"][:, : self.n],
                table["degraded"][:, 0],
            )
