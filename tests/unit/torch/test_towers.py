"""The towers: what tables cut among ranks give is what whole ones give, and their loss is what is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from contract import names
from contract.encoders import OOV_CODE
from tests.builders.forked import forked
from tests.builders.towers_task import ITEMS, towers_task
from training.retrieval.config import TorchrecConfig
from training.retrieval.task import FittingTask
from training.retrieval.tower_design import TowersStart
from training.torchrec.batches import DrawnBatches, tensors
from training.torchrec.ranks import Ranks
from training.torchrec.tables import WholeTables
from training.torchrec.towers import HISTORY_ITEMS, NEVER, TwoTowers, history_weights, in_batch_loss
from training.torchrec.towers import ITEMS as ITEMS_TO_FIND
from training.torchrec.train import fill, sharded

CPU = torch.device("cpu")


def start_of(task: FittingTask) -> TowersStart:
    return TowersStart.of(task)


def shaken(model: torch.nn.Module, seed: int = 3) -> None:
    """Moves every weight at random, so that no column is left out by a zero."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(model.named_parameters()):
        parameter.detach().add_(torch.normal(0.0, 0.3, parameter.shape, generator=generator))


def whole(task: FittingTask) -> TwoTowers:
    start = start_of(task)
    towers = TwoTowers(task.tower_fields, start, task.config, WholeTables)
    fill(towers, {HISTORY_ITEMS: start.history, ITEMS_TO_FIND: start.candidates})
    return towers


def first_batch(task: FittingTask) -> dict[str, Any]:
    alone = Ranks(0, 1, CPU)
    return dict(tensors(next(DrawnBatches(task, alone).read(0.5, 0)), CPU))


def gradients(towers: Any, task: FittingTask) -> dict[str, Any]:
    users, items = towers(first_batch(task))
    (users.square() * torch.arange(users.shape[1])).sum().add((items**3).sum()).backward()
    return {name: parameter.grad.numpy() for name, parameter in sorted(towers.named_parameters())}


def test_sharded_tables_give_the_vectors_and_gradients_of_whole_ones() -> None:
    task = towers_task()
    towers = whole(task)
    shaken(towers)

    def of_sharded(ranks: Ranks) -> Any:
        config = TorchrecConfig(sharding="table_wise")
        model = sharded(task.tower_fields, start_of(task), task.config, config, ranks, 48)
        shaken(model)
        model.train()
        users, items = model(first_batch(task))
        return users.detach().numpy(), items.detach().numpy(), gradients(model, task)

    found_users, found_items, found = forked(1, of_sharded)[0]
    towers.eval()  # here the decays learn through the weights themselves
    users, items = towers(first_batch(task))
    np.testing.assert_allclose(found_users, users.detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(found_items, items.detach().numpy(), atol=1e-6)
    expected = gradients(towers, task)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_slopes_of_a_history_are_those_of_its_weights() -> None:
    is_there = torch.tensor([[True, True, True, False], [False] * 4])
    decay = torch.tensor(0.3, requires_grad=True)
    weights, slopes = history_weights(is_there, decay)
    for row in range(2):
        for at in range(4):
            (slope,) = torch.autograd.grad(weights[row, at], decay, retain_graph=True)
            assert float(slope) == pytest.approx(float(slopes[row, at]), abs=1e-6)
    assert weights[1].tolist() == [0.0] * 4
    assert float(weights[0].sum()) < 1


def test_the_loss_is_the_corrected_softmax_among_the_batch() -> None:
    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=(n, 3)).astype(np.float32) for n in (2, 4))
    codes, log_chances = np.array([3, 5, 3, 6]), np.log(rng.random(8)).astype(np.float32)
    logits = users @ items.T / 0.5 - log_chances[codes]
    logits[1, 0] = NEVER  # users 1 and 2 of the batch are these two; user 1 chose item 1, user 2 item 3 again
    expected = []
    for user, own in ((0, 1), (1, 2)):
        row = logits[user].copy()
        row[[at for at in range(4) if codes[at] == codes[own] and at != own]] = NEVER
        expected.append(np.log(np.exp(row).sum()) - row[own])
    parts = [torch.from_numpy(part) for part in (users, items, codes, log_chances)]
    found = in_batch_loss(parts[0], parts[1], parts[2], 1, parts[3], 0.5)
    assert float(found) == pytest.approx(np.mean(expected), abs=1e-5)


def test_batches_are_the_same_rows_for_one_rank_and_for_two_from_any_step_on() -> None:
    task = towers_task()
    alone, *two = (DrawnBatches(task, Ranks(rank, count, CPU)) for rank, count in ((0, 1), (0, 2), (1, 2)))
    third = next(alone.read(0.5, 2))
    drawn = alone.read(0.5, 0)
    for _ in range(3):
        again = next(drawn)
    parts = [next(one.read(0.5, 2)) for one in two]
    for name, values in third.items():
        assert np.array_equal(values, again[name])
        assert np.array_equal(values, np.concatenate([part[name] for part in parts]))
    blank = third[names.USER_ID][-alone.blanks :]
    assert alone.blanks == 6
    assert (blank == OOV_CODE).all()
    assert not third[names.USER_RECENT_ITEM_IDS][-alone.blanks :].any()
    assert (third[names.USER_ID][: -alone.blanks] != OOV_CODE).any()
    chances = np.exp(alone.log_chances[3 : ITEMS + 3])
    assert chances[chances > 1e-30].sum() == pytest.approx(1, abs=1e-5)
