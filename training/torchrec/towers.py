"""The towers of `training/retrieval/tower_design.py` in torch: the same numbers as the first trainer's.

Columns go by their safe names. Where tables are sharded, what is looked up comes back summed, so a history's
decay cannot learn through its weights: it does through a second lookup, of the weights' slopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from contract import names
from contract.arrays import Floats
from contract.encoders import OOV_CODE, PAD_CODE, Field
from training.retrieval.config import TwoTowerConfig
from training.retrieval.tower_design import (
    GATE_START,
    KNOTS,
    NEWCOMER_TASTE,
    POOLS,
    POPULARITY_BOUND,
    PRIOR_SPEED,
    PRIOR_START,
    TowersStart,
    table_rows,
)
from training.torchrec.tables import Lookup, Table, WholeTables, look_up

Columns = Mapping[str, Tensor]
"""Encoded columns by safe name, (B,), lists and embeddings (B,S)."""
MakeTables = Callable[[Sequence[Table], int], nn.Module]
HISTORY_ITEMS, ITEMS = "items_of_histories", "items_to_find"
"""The tables that do not start at zero."""
TINY = 1e-12


def unit(vectors: Tensor) -> Tensor:
    """Gives vectors (B,D) the length 1; zero stays zero."""
    return vectors * torch.rsqrt(vectors.square().sum(1, keepdim=True).clamp(min=TINY))


def history_weights(is_there: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    """Takes where a history (B,S), newest first, has items; gives their weights (B,S) and the
    slopes of these in the decay.

    Position s weighs exp(-decay * s), and all are divided by one more than their sum: the shorter the
    history, the nearer to zero is what it sums to.
    """
    places = torch.arange(is_there.shape[1], dtype=torch.float32, device=is_there.device)
    weights = is_there * torch.exp(-decay * places)
    total = weights.sum(1, keepdim=True) + 1.0
    slopes = -places * weights
    return weights / total, slopes / total - weights * slopes.sum(1, keepdim=True) / total.square()


class TorchTower(nn.Module):
    """Sums one vector per side column; these start at zero, so that at first the item tables alone decide."""

    def __init__(
        self, fields: Sequence[Field], tables: Sequence[Table], width: int, make_tables: MakeTables
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.tables = make_tables([*tables, *(_table(field) for field in fields if _is_coded(field))], width)
        self.maps = nn.ParameterDict(
            {_key(f): nn.Parameter(torch.zeros(table_rows(f), width)) for f in fields if not _is_coded(f)}
        )

    def side_lookups(self, columns: Columns) -> list[Lookup]:
        """Asks for the rows of categorical columns and the means of lists."""
        return [side_lookup(field, columns[field.name]) for field in self.fields if _is_coded(field)]

    def side_maps(self, columns: Columns) -> list[Tensor]:
        """Gives what numbers and embeddings add, (B,D) each."""
        return [
            mapped(field, columns[field.name], self.maps[_key(field)])
            for field in self.fields
            if not _is_coded(field)
        ]


def _is_coded(field: Field) -> bool:
    return field.kind in ("categorical", "list")


def _key(field: Field) -> str:
    return f"of_{field.name}"


def _table(field: Field) -> Table:
    return Table(_key(field), field.cardinality, (_key(field),))


def side_lookup(field: Field, values: Tensor) -> Lookup:
    """Asks for a code's row, or for the sum of a list's rows divided by one more than their number."""
    if field.kind == "categorical":
        ids = values.reshape(-1, 1)
        return Lookup(_key(field), ids, torch.ones_like(ids, dtype=torch.bool), torch.ones_like(ids).float())
    is_there = values != PAD_CODE
    shares = is_there / (is_there.sum(1, keepdim=True) + 1.0)
    return Lookup(_key(field), values, is_there, shares)


def mapped(field: Field, values: Tensor, table: Tensor) -> Tensor:
    """Gives what a number (B,) or an embedding (B,L) adds by its table (rows, D); (B,D)."""
    if field.kind == "numeric":
        number = values.reshape(-1, 1).clamp(-5.0, 5.0)
        if len(table) == 1:
            return number * table
        beyond = (number - torch.tensor([KNOTS], device=number.device)).clamp(min=0.0)
        return torch.cat([number, beyond], dim=1) @ table
    return values @ table


class TorchUserTower(TorchTower):
    """Encodes users, (B, D + 1): as the first trainer's `UserTower` does.

    `newcomer` and `is_placed` are fitted after the training; no checkpoint holds them.
    """

    def __init__(
        self, fields: Sequence[Field], start: TowersStart, config: TwoTowerConfig, make_tables: MakeTables
    ) -> None:
        by_name = {field.name: field for field in fields}
        self.pools = tuple(one for one in POOLS if one[0] in by_name)
        side = [field for field in fields if field.vocabulary != names.ITEM_ID]
        features = tuple(name for at in range(len(self.pools)) for name in _pool_features(at))
        items = [Table(HISTORY_ITEMS, len(start.history), features)] if self.pools else []
        super().__init__(side, items, config.width, make_tables)
        self.decays = nn.ParameterList([nn.Parameter(torch.tensor(decay)) for _, decay, _ in self.pools])
        self.mixes = nn.ParameterList(
            [nn.Parameter(weight * torch.eye(config.width)) for _, _, weight in self.pools]
        )
        self.base = nn.Parameter(torch.tensor(start.base))
        self.gate = nn.Parameter(torch.tensor([GATE_START[0], *[GATE_START[1]] * len(self.pools)]))
        self.newcomer: Tensor
        self.is_placed: Tensor
        self.register_buffer("newcomer", torch.zeros(config.width), persistent=False)
        self.register_buffer("is_placed", torch.zeros(()), persistent=False)

    def forward(self, columns: Columns) -> Tensor:
        """Takes encoded columns, gives vectors (B, D + 1)."""
        sums = self.sums(columns)
        direction = unit(sums[:, :-1])
        weight = POPULARITY_BOUND * torch.sigmoid(sums[:, -1:])
        placed = self._is_new(columns) * self.is_placed
        direction = direction * (1.0 + placed * (NEWCOMER_TASTE - 1.0))
        return torch.cat([direction, weight + placed * (POPULARITY_BOUND - weight)], dim=1)

    def sums(self, columns: Columns) -> Tensor:
        """Gives what vectors are made of: the direction at any length and the gate's logit; (B, D + 1)."""
        there = [columns[name] != PAD_CODE for name, _, _ in self.pools]
        lookups = self.side_lookups(columns)
        sides = len(lookups)
        for at, (name, _, _) in enumerate(self.pools):
            weights, slopes = history_weights(there[at], self.decays[at])
            value, slope = _pool_features(at)
            lookups.append(Lookup(value, columns[name], there[at], weights))
            if self.training:
                lookups.append(Lookup(slope, columns[name], there[at], slopes.detach()))
            elif not isinstance(self.tables, WholeTables):  # sharded ones are asked for all their features
                lookups.append(Lookup(slope, columns[name], torch.zeros_like(there[at]), slopes))
        found = look_up(self.tables, lookups)
        total = self.base[None] + sum([*found[:sides], *self.side_maps(columns)])
        pooled = dict(zip([one.feature for one in lookups[sides:]], found[sides:], strict=True))
        gate = self.gate[0] + torch.zeros_like(total[:, :1])
        for at in range(len(self.pools)):
            value, slope = _pool_features(at)
            mean, decay = pooled[value], self.decays[at]
            if self.training:  # of value 0, and the slope that the sum has in the decay
                mean = mean + (decay - decay.detach()) * pooled[slope].detach()
            total = total + mean @ self.mixes[at]
            gate = gate + self.gate[at + 1] * torch.log1p(there[at].sum(1, keepdim=True)) / 4.0
        return torch.cat([total + self._is_new(columns) * self.newcomer[None], gate], dim=1)

    def _is_new(self, columns: Columns) -> Tensor:
        """Gives 1.0 for users without history, (B,1)."""
        counts = [(columns[name] != PAD_CODE).sum(1, keepdim=True) for name, _, _ in self.pools]
        return (sum(counts) == 0).float()

    def place_newcomer(self, direction: Floats, sums: Floats) -> None:
        """Moves users without history as the unknown one, now at `sums` (D + 1,), moves to a direction."""
        towards, at = torch.tensor(direction), torch.tensor(sums[:-1])
        self.newcomer += towards / towards.norm().clamp(min=1e-6) * at.norm() - at
        self.is_placed.fill_(1.0)


def _pool_features(at: int) -> tuple[str, str]:
    return f"history_{at}", f"history_{at}_slope"


class TorchItemTower(TorchTower):
    """Encodes items, (B, D + 1): as the first trainer's `ItemTower` does.

    What is of new items is fitted after the training; no checkpoint holds it.
    """

    def __init__(
        self, fields: Sequence[Field], start: TowersStart, config: TwoTowerConfig, make_tables: MakeTables
    ) -> None:
        self_id = next(field for field in fields if field.name == names.ITEM_ID)
        side = [field for field in fields if field is not self_id]
        items = Table(ITEMS, len(start.candidates), (_key(self_id),))
        super().__init__(side, [items], config.width, make_tables)
        self.temperature = config.temperature
        self.id = self_id
        self.factor = nn.Parameter(torch.tensor(PRIOR_START / PRIOR_SPEED))
        self.popularity: Tensor
        self.new_base: Tensor
        self.lift: Tensor
        self.register_buffer("popularity", torch.tensor(start.popularity), persistent=False)
        self.register_buffer("new_base", torch.zeros(config.width + 1), persistent=False)
        self.register_buffer("lift", torch.zeros(()), persistent=False)
        self.new_tables: nn.ParameterDict | None = None

    def forward(self, columns: Columns) -> Tensor:
        """Takes encoded columns, gives vectors (B, D + 1)."""
        codes = columns[names.ITEM_ID].reshape(-1)
        found = look_up(self.tables, [side_lookup(self.id, codes), *self.side_lookups(columns)])
        total = sum([*found, *self.side_maps(columns)])
        popularity = self.popularity.index_select(0, codes)[:, None]  # so named in the exported graph too
        if self.new_tables is not None:
            is_new = (codes == OOV_CODE)[:, None]
            side = self._of_new(columns, self.new_tables)
            total = torch.where(is_new, side[:, :-1], total)
            bounds = self.popularity.min(), self.popularity.max()
            lifted = torch.minimum(torch.maximum(side[:, -1:] + self.lift, bounds[0]), bounds[1])
            popularity = torch.where(is_new, lifted, popularity)
        # The logits are divided by the temperature; the prior, in logits, must come out as it went in.
        return torch.cat([unit(total), self.temperature * PRIOR_SPEED * self.factor * popularity], dim=1)

    def _of_new(self, columns: Columns, tables: Mapping[str, Tensor]) -> Tensor:
        """Gives what new items' vectors are made of, (B, D + 1)."""
        total = self.new_base[None] + torch.zeros_like(columns[names.ITEM_ID].reshape(-1, 1)).float()
        for field in self.fields:
            table, values = tables[field.name], columns[field.name]
            if _is_coded(field):
                lookup = side_lookup(field, values)
                total = total + (table[lookup.ids] * lookup.weights[:, :, None]).sum(1)
            else:
                total = total + mapped(field, values, table)
        return total

    def place_new_items(self, base: Floats, tables: Mapping[str, Floats]) -> None:
        """Puts new items at `base` (D + 1,), the last their popularity, and what `tables` (rows, D + 1)
        add."""
        self.new_base.copy_(torch.tensor(base))
        self.new_tables = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(table), requires_grad=False) for name, table in tables.items()}
        )

    def prior(self) -> Tensor:
        """Gives every item code's popularity prior, in logits; (cardinality,)."""
        return PRIOR_SPEED * self.factor * self.popularity


class TwoTowers(nn.Module):
    """Both towers, and the corrected in-batch softmax that trains them.

    Source: Yi et al. 2019, equations 3 to 5.
    """

    def __init__(
        self,
        fields: tuple[Sequence[Field], Sequence[Field]],
        start: TowersStart,
        config: TwoTowerConfig,
        make_tables: MakeTables,
    ) -> None:
        """Takes the fields of users and of items, by safe name."""
        super().__init__()
        self.user_tower = TorchUserTower(fields[0], start, config, make_tables)
        self.item_tower = TorchItemTower(fields[1], start, config, make_tables)

    def forward(self, columns: Columns) -> tuple[Tensor, Tensor]:
        """Gives the vectors of the users and of the items of the same rows, (B, D + 1) each."""
        return self.user_tower(columns), self.item_tower(columns)


NEVER = -1e9
"""The logit of an item that is no negative."""


def in_batch_loss(
    users: Tensor, items: Tensor, codes: Tensor, first: int, log_chances: Tensor, temperature: float
) -> Tensor:
    """Takes users (B,D), the items (G,D) and codes (G,) of the whole batch, of which user u chose first + u,
    and the logarithm of each code's chance to be drawn; gives the mean of -log P(chosen among the batch).

    Other occurrences of the chosen item are no negatives.
    """
    logits = users @ items.T / temperature - log_chances[codes]
    own = torch.arange(len(users), device=users.device) + first
    same = codes[own][:, None] == codes[None]
    same[torch.arange(len(users)), own] = False
    return nn.functional.cross_entropy(logits.masked_fill(same, NEVER), own)
