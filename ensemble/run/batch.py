"""Requests as one table and back: stacked when they come together, checked, and cut apart when answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from contract.arrays import Array, filled
from contract.errors import ErrorCode, StageError
from contract.filters import decode_filters
from contract.ids import IdDtype
from contract.rules.order_rules import decode_rules
from contract.slates import Degradation, degradation_mask
from contract.tensors import ANSWER_TENSORS, MAX_N, OPTIONAL_FILL, OPTIONAL_TENSORS, PAD_ID, pack
from contract.user_features import decode_user_features
from ensemble.stage import Tensors

Places = npt.NDArray[np.intp]
NO_ROWS: Places = np.arange(0)
OPTIONAL_DTYPES = {t.name: t.dtype for t in OPTIONAL_TENSORS}
LATE_ROW = {
    "item_ids": PAD_ID,
    "item_scores": -np.inf,
    "degraded": degradation_mask([Degradation.LATE]),
    "retrieved_ids": PAD_ID,
    "retrieved_scores": -np.inf,
    "candidate_ids": PAD_ID,
    "retrieval_scores": -np.inf,
}
"""What stands in the row of a user whose deadline passed on the way; all else is 0, but what is the same in
every row."""
SAME_IN_EVERY_ROW = ("bundle_id",)


class Reply(Mapping[str, Array]):
    """One request's rows of a table of several. A tensor is cut out when it is asked for: few of them are."""

    def __init__(self, tensors: Tensors, packed: Array, places: slice | Places) -> None:
        """Takes a table, its `ANSWER_TENSORS` packed, and where in it the request's rows are: side by side,
        or each its own, -1 for late."""
        self.tensors, self.places, self._packed = tensors, places, packed

    @property
    def packed(self) -> Array:
        """The request's `ANSWER_TENSORS` as they travel."""
        if isinstance(self.places, slice):
            return self._packed[self.places]
        return pack(self, ANSWER_TENSORS)

    def __getitem__(self, name: str) -> Array:
        """Gives one tensor of the request's rows."""
        array = self.tensors[name]
        if isinstance(self.places, slice):
            return array[self.places]
        found: Array = array[self.places]
        found[self.places < 0] = array[0] if name in SAME_IN_EVERY_ROW else LATE_ROW.get(name, 0)
        return found

    def __iter__(self) -> Iterator[str]:
        """Lists the tensors' names."""
        return iter(self.tensors)

    def __len__(self) -> int:
        """Counts the tensors."""
        return len(self.tensors)


class Batch:
    """The tensors of requests of one or more users each, as one table. `owners` (B,) says whose a row is."""

    def __init__(self, requests: Sequence[Mapping[str, Array]]) -> None:
        self.requests = requests
        sent = dict.fromkeys(name for request in requests for name in request)
        self.tensors: Tensors = {name: _stacked([_sent(r, name) for r in requests], name) for name in sent}
        rows = [len(request["user_id"]) for request in requests]
        self.ends, self.owners = np.cumsum(rows), np.repeat(np.arange(len(requests)), rows)

    def table(self, rows: Places) -> Tensors:
        """Gives the rows (B',) with which the chain begins."""
        return self.tensors if len(rows) == len(self.owners) else take(self.tensors, rows)

    def complaints(
        self, kinds: Mapping[str, str], features: Mapping[str, str], item_ids: IdDtype
    ) -> dict[int, StageError]:
        """Finds the requests that are wrong; Triton has checked their dtypes and shapes.

        Takes the filterable columns, and the features that a request may bring along, with their dtypes, and
        the dtype of items' own ids. Each error is `bad_request` and names the field.
        """
        n, user_id, like = (self.tensors[name] for name in ("n", "user_id", "like_item_id"))
        filtered, given = self._sent_rows("filters"), self._sent_rows("user_features")
        is_wrong_user = (user_id == PAD_ID) & (like == PAD_ID)
        is_wrong_user[given] = False  # it may be nobody
        found: dict[int, StageError] = {}
        for name, is_wrong, must in (
            ("n", (n < 1) | (n > MAX_N), f"from 1 to {MAX_N}"),
            ("user_id", is_wrong_user, "an id"),
        ):
            for row in is_wrong.nonzero()[0].tolist():
                message = f"{name} must be {must}, got {self.tensors[name][row, 0]}"
                found[self.owners[row]] = StageError(ErrorCode.BAD_REQUEST, "request", message)
        for row in filtered:
            try:
                decode_filters(self.tensors["filters"][row], kinds)
            except StageError as error:
                found[self.owners[row]] = error
        for row in self._sent_rows("rules"):
            try:
                decode_rules(self.tensors["rules"][row], kinds, item_ids)
            except StageError as error:
                found[self.owners[row]] = error
        for row in given:
            try:
                decode_user_features(self.tensors["user_features"][row], features)
            except StageError as error:
                found[self.owners[row]] = error
        return found

    def _sent_rows(self, name: str) -> Places:
        """Lists the rows in which an optional tensor of bytes says something."""
        return np.nonzero(self.tensors[name].any(axis=1))[0] if name in self.tensors else NO_ROWS

    def cut(self, table: Tensors, rows: Places) -> dict[int, Reply]:
        """Takes the last table and which rows (B',) of the batch are in it, gives each request its own; none
        where no row of it is left."""
        places = filled(len(self.owners), -1, np.intp)
        places[rows] = np.arange(len(rows))
        replies, packed, start = {}, pack(table, ANSWER_TENSORS), 0
        for request, end in enumerate(self.ends.tolist()):
            first, last = places[start], places[end - 1]
            if first >= 0 and last - first == end - 1 - start:
                replies[request] = Reply(table, packed, slice(first, last + 1))
            elif (places[start:end] >= 0).any():
                replies[request] = Reply(table, packed, places[start:end])
            start = end
        return replies


def take(tensors: Mapping[str, Array], rows: Array) -> Tensors:
    """Keeps some rows of a table, by position or by mask."""
    return {name: array[rows] for name, array in tensors.items()}


def _sent(request: Mapping[str, Array], name: str) -> Array:
    """Gives a request's tensor, or what stands for an optional one that it did not send."""
    if name in request or name not in OPTIONAL_FILL:
        return request[name]
    return unsent(name, len(request["user_id"]))


def unsent(name: str, rows: int) -> Array:
    """Makes what stands for an optional tensor, (rows,1)."""
    return filled((rows, 1), OPTIONAL_FILL[name], OPTIONAL_DTYPES[name])


def _stacked(arrays: Sequence[Array], name: str) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    width = max(array.shape[1] for array in arrays)
    return np.concatenate([_widened(array, width, OPTIONAL_FILL.get(name, 0)) for array in arrays])


def _widened(array: Array, width: int, fill: int) -> Array:
    if array.shape[1] == width:
        return array
    wide = filled((len(array), width), fill, array.dtype)
    wide[:, : array.shape[1]] = array
    return wide
