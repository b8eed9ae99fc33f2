"""Who asks in the benchmark of embeddings: as often the same ones as is said."""

from __future__ import annotations

import numpy as np
import pytest

from bench.embeddings.gateway import READS
from bench.embeddings.zipf import Zipf, ids_of


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_the_first_are_drawn_as_often_as_is_wanted(share: float) -> None:
    zipf = Zipf.with_share(share, 1_000, 100_000)
    ranks = zipf.draw(np.random.default_rng(0), 200, 1_000)
    assert ranks.min() == 0
    assert ranks.max() < 100_000
    assert (ranks < 1_000).mean() == pytest.approx(share, abs=0.01)


def test_every_rank_has_an_id_of_its_own() -> None:
    ids = ids_of(np.arange(100_000))
    assert len(np.unique(ids)) == 100_000
    assert ids.min() >= 0


def test_what_a_level_had_is_read_from_tritons_page() -> None:
    page = 'shortlist_chain_embedding_rows_total{level="cache",table="user_id"} 1.2e+03\n'
    assert READS.findall(page) == [('level="cache",table="user_id"', "1.2e+03")]
