"""The ensemble reads like its diagram."""

from __future__ import annotations

from dataclasses import dataclass

from merlin.dag import Node
from merlin.schema import Schema

from contract.tensors import OPTIONAL_TENSORS, REQUEST_TENSORS
from ensemble.bundle import LoadedBundle
from ensemble.settings import EnsembleSettings
from ensemble.sources.source import Source
from ensemble.stage import tensor
from ensemble.stages.beside import BesideTables
from ensemble.stages.encode import EncodeUser
from ensemble.stages.filter import FilterCandidates
from ensemble.stages.lookup import LookupItemFeatures, LookupUserFeatures
from ensemble.stages.offer import Offers
from ensemble.stages.order import OrderCandidates
from ensemble.stages.retrieve import RetrieveCandidates
from ensemble.stages.ruled import RuledOrder
from ensemble.stages.score import ScoreCandidates
from ensemble.stores.client import CountedRedis
from ensemble.stores.embeddings.tiers import Embeddings
from ensemble.stores.embeddings.updates import UpdateWatch
from ensemble.stores.features import FeatureStore
from ensemble.stores.index_watch import IndexState
from ensemble.stores.items import ItemTable
from ensemble.stores.live_items import LiveItemsWatch
from ensemble.stores.vectors import VectorIndex


@dataclass(frozen=True)
class Stores:
    """Where the chain reads from."""

    features: FeatureStore
    vectors: VectorIndex
    items: ItemTable
    redis: CountedRedis | None = None  # the requests' client, where there is one
    watch: IndexState | None = None  # of the index, where one is looked at
    live: LiveItemsWatch | None = None  # of the items that change meanwhile, where Redis tells
    sources: tuple[Source, ...] = ()  # of candidates, beside the bundle's
    embeddings: Embeddings | None = None  # of the bundle's tables; without, they are read from its files
    updates: UpdateWatch | None = None  # of the embeddings, where they lie in levels


def request_schema(bundle: LoadedBundle) -> Schema:
    """Describes a request: the contract's tensors, the optional ones filled where they are not sent, and one
    int64 (B,1) per context column."""
    tensors = (*REQUEST_TENSORS, *OPTIONAL_TENSORS)
    fixed = [tensor(t.name, t.dtype, *((t.width,) if t.width > 0 else ())) for t in tensors]
    return Schema([*fixed, *(tensor(name, "int64", 1) for name in bundle.manifest.context)])


def offers_of(bundle: LoadedBundle, stores: Stores, settings: EnsembleSettings) -> Offers:
    """Makes what there is to retrieve."""
    of_new = max((one.share for one in settings.order.shares if one.filters is None), default=0.0)
    return Offers(bundle, stores.vectors, stores.items, stores.sources, of_new)


def recommend_graph(bundle: LoadedBundle, stores: Stores, settings: EnsembleSettings, offers: Offers) -> Node:
    """Chains the stages; every tensor stays in the table, so that its last state explains the answer."""
    k, r, dataset = settings.k, settings.retrieved, bundle.dataset
    temperature = settings.exploration_temperature
    sources = offers.current.panel.sources
    of_users, of_candidates = bundle.ranker_inputs
    user_features, filters = bundle.user_features, bundle.manifest.filters
    ruled = RuledOrder(settings, bundle.manifest, offers, stores.items)
    tables = BesideTables(bundle.manifest.tables, stores.embeddings or bundle.embeddings)
    return (
        request_schema(bundle).column_names
        >> LookupUserFeatures(stores.features, dataset, bundle.taken_of_users, settings.max_seen)
        >> EncodeUser(bundle.user_tower, of_users, bundle.encoders, lambda: offers.current.catalogue, tables)
        >> RetrieveCandidates(offers, stores.items, user_features, filters, k, r)
        >> FilterCandidates(stores.items, len(sources), k, r)
        >> LookupItemFeatures(stores.items, of_candidates.without(bundle.manifest.beside), dataset, k)
        >> ScoreCandidates(bundle.ranker if bundle.manifest.is_ranked else None, k, tables)
        >> OrderCandidates(
            bundle.manifest.order, [one.spec for one in sources], of_candidates.numeric, k, ruled, temperature
        )
    )
