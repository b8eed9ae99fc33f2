"""Ids as this bundle's callers write them, and back: the numbers behind them leave the gateway never."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from contract.affinity import LISTS
from contract.bundle import Manifest
from contract.errors import WrongField
from contract.filters import list_of
from contract.ids import IdDtype, OwnId, number_of
from contract.texts import ITEMS, Texts

ItemOf = Callable[[int], OwnId | None]


class OwnIds:
    """Takes own ids to numbers, and numbers of items to own ids."""

    def __init__(self, users: IdDtype, items: IdDtype, item: ItemOf | None = None) -> None:
        """Takes the dtypes that the bundle declares, and where items are text the way back, which gives None
        for an item that the bundle does not have."""
        self.users, self.items = users, items
        self.live: Mapping[int, OwnId] = {}
        """Own ids of items that came after the bundle."""
        self._item: ItemOf = item or (lambda number: number)

    def item(self, number: int) -> OwnId | None:
        """Gives the own id of an item; None for one that cannot be named: not of the bundle, nor heard of."""
        own = self._item(number)
        return self.live.get(number) if own is None else own

    @classmethod
    def of(cls, manifest: Manifest, folder: Path) -> OwnIds:
        """Those of a bundle.

        Raises:
            OSError, ValueError: the items' texts cannot be read.
        """
        is_text = manifest.item_id_dtype == "string"
        way_back = Texts.open(folder, ITEMS).of if is_text else None
        return cls(manifest.user_id_dtype, manifest.item_id_dtype, way_back)

    @property
    def are_numbers(self) -> bool:
        """Whether no id is text, so that a body is what it says."""
        return self.users == self.items == "int64"

    def written_dtypes(self, columns: Mapping[str, str]) -> dict[str, str]:
        """Takes users' columns and their dtypes, gives these as callers write them: lists of items hold own
        ids."""
        return {name: list_of(self.items) if name in LISTS else dtype for name, dtype in columns.items()}

    def number_body(self, body: dict[str, Any]) -> dict[int, str]:
        """Puts numbers in the place of the ids in a request's body, gives the texts of user and item.

        Raises:
            WrongField: an id is of the wrong kind, too long or empty.
        """
        texts: dict[int, str] = {}
        several = body.get("requests")
        for place, one in enumerate(several if isinstance(several, list) else ()):
            if isinstance(one, dict):
                try:
                    texts |= self.number_body(one)
                except WrongField as error:
                    raise error.within(f"requests.{place}") from None
        if self.users == "string" and "user_id" in body:
            own = body["user_id"]
            body["user_id"] = number = _number("user_id", own, self.users)
            texts[number] = own
        if self.items == "string":
            if "item_id" in body:
                own = body["item_id"]
                body["item_id"] = number = _number("item_id", own, self.items)
                texts[number] = own
            _number_lists(body, ("exclude_item_ids",), "")
            if isinstance(body.get("user_features"), dict):
                _number_lists(body["user_features"], LISTS, "user_features.")
        return texts

    def user_of_path(self, text: str) -> tuple[int, OwnId]:
        """Takes a part of a path, gives the user's number and own id.

        Raises:
            WrongField: it is no id of this bundle's users.
        """
        return _of_path("user_id", text, self.users)

    def item_of_path(self, text: str) -> tuple[int, OwnId]:
        """Takes a part of a path, gives the item's number and own id.

        Raises:
            WrongField: it is no id of this bundle's items.
        """
        return _of_path("item_id", text, self.items)

    def named(self, item_ids: Iterable[int]) -> Iterator[tuple[int, OwnId]]:
        """Takes numbers, gives them with own ids; without those that this bundle cannot name."""
        return ((number, own) for number in item_ids if (own := self.item(number)) is not None)


def _of_path(field: str, text: str, dtype: IdDtype) -> tuple[int, OwnId]:
    own: OwnId = text
    if dtype == "int64":
        try:
            own = int(text) if text.removeprefix("-").isdecimal() and text.isascii() else text
        except ValueError:  # thousands of digits
            own = text
    return _number(field, own, dtype), own


@lru_cache(65_536)
def _kept_number(own: OwnId) -> int:
    """The number of an id that is text; callers exclude the same items again and again."""
    return number_of(own, "string")


def _number_lists(body: dict[str, Any], lists: Iterable[str], prefix: str) -> None:
    """Puts numbers in the place of the texts in lists of items."""
    for name in lists:
        own = body.get(name)
        if not isinstance(own, list):
            continue
        try:
            body[name] = list(map(_kept_number, own))
        except (ValueError, TypeError):  # say which one
            body[name] = [_number(f"{prefix}{name}.{place}", one, "string") for place, one in enumerate(own)]


def _number(field: str, own: Any, dtype: IdDtype) -> int:
    try:
        return number_of(own, dtype)
    except ValueError as error:
        raise WrongField(field, str(error)) from None
