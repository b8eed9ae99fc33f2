"""Which bundle answers whom: the routing record of a data set, one JSON in Redis, replaced in one write.

The record is what is served now. Where there is none, as in an emptied Redis, the bundle of the link
`current` answers everyone; each promotion and rollback moves the link after the record.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contract.tensors import PAD_ID

CHAMPION = "champion"
"""The name of the arm of those whom no other arm takes; the others are named by their bundles."""
REPLACE = """
if (redis.call('GET', KEYS[1]) or '') == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end
return 0
"""
"""Lua: the record becomes `ARGV[2]` if it still is `ARGV[1]`, as text, empty where there is none; 1 if so."""

BundleName = Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]


class RoutingError(ValueError):
    """Says why a record cannot be read, or why a change of it is refused, and what to do."""


class Arm(BaseModel):
    """A bundle that answers a share of the users beside the champion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: BundleName
    share: float = Field(gt=0, lt=1)


class Routing(BaseModel):
    """The record: `former` was the champion before, and is kept at hand for a rollback; `shadow` is asked
    beside the champion, and shown to nobody; `experiment` names the split, which decides who is in which arm;
    `at` and `why` tell of the last change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    champion: BundleName
    arms: tuple[Arm, ...] = ()
    shadow: BundleName | None = None
    former: BundleName | None = None
    experiment: str = ""
    at: str = ""
    why: str = ""

    @model_validator(mode="after")
    def _nobody_is_in_two_arms(self) -> Self:
        names = Counter([self.champion, *(arm.bundle for arm in self.arms)])
        if twice := [name for name, times in names.items() if times > 1]:
            raise ValueError(f"{', '.join(twice)} stands there twice")
        if sum(arm.share for arm in self.arms) >= 1:
            raise ValueError("the shares leave nobody to the champion")
        return self

    @property
    def answering(self) -> tuple[str, ...]:
        """The bundles whose slates users get, the champion first."""
        return (self.champion, *(arm.bundle for arm in self.arms))

    @property
    def bundles(self) -> tuple[str, ...]:
        """The bundles to hold loaded and up to date, by how much they are missed: those that answer, the
        shadow, the former champion. Each once."""
        named = (*self.answering, self.shadow, self.former)
        return tuple(dict.fromkeys(name for name in named if name))

    def arm_of(self, user_id: int) -> str:
        """Names the user's arm. It stays the same as long as the split goes on: a greater share takes more
        users into the last arm, and nobody out. A request without a user is the champion's."""
        if not self.arms or user_id == PAD_ID:
            return CHAMPION
        place, end = place_of(user_id, self.experiment), 0.0
        for arm in self.arms:
            end += arm.share
            if place < end:
                return arm.bundle
        return CHAMPION

    def promoted(self, bundle: str, why: str) -> Routing:
        """Makes a bundle the champion; where it was an arm or the shadow, that ends."""
        if bundle == self.champion:
            return self
        arms = tuple(arm for arm in self.arms if arm.bundle != bundle)
        shadow = None if self.shadow == bundle else self.shadow
        return self._changed(why, champion=bundle, former=self.champion, arms=arms, shadow=shadow)

    def split(self, bundle: str, share: float, why: str) -> Routing:
        """Gives a bundle this share of the users; 0 ends its arm.

        Raises:
            RoutingError: it is the champion, or the shares leave nobody to the champion.
        """
        if bundle == self.champion:
            raise RoutingError(f"{bundle}: is the champion, which has all that the arms leave")
        arms = [arm for arm in self.arms if arm.bundle != bundle or share]
        if share:
            try:
                arm = Arm(bundle=bundle, share=share)
            except ValidationError:
                raise RoutingError(f"SHARE={share}: must be at least 0 and below 1") from None
            places = [place for place, one in enumerate(arms) if one.bundle == bundle]
            arms[places[0] if places else len(arms) :] = [arm, *arms[places[0] + 1 :]] if places else [arm]
        if sum(arm.share for arm in arms) >= 1:
            raise RoutingError(f"SHARE={share}: the arms together must leave users to the champion")
        experiment = (self.experiment if self.arms else _now()) if arms else ""
        shadow = None if share and self.shadow == bundle else self.shadow
        return self._changed(why, arms=tuple(arms), experiment=experiment, shadow=shadow)

    def shadowed(self, bundle: str | None, why: str) -> Routing:
        """Asks a bundle beside the champion; none ends that.

        Raises:
            RoutingError: it answers users already.
        """
        if bundle in self.answering:
            raise RoutingError(f"{bundle}: answers users already; a shadow is shown to nobody")
        return self._changed(why, shadow=bundle)

    def without_former(self) -> Routing:
        """Lets go of the former champion."""
        return self.model_copy(update={"former": None})

    def encode(self) -> str:
        """Packs it as JSON."""
        return self.model_dump_json()

    @classmethod
    def decode(cls, value: bytes | str) -> Routing:
        """Unpacks `encode`.

        Raises:
            RoutingError: it is something else.
        """
        try:
            return cls.model_validate_json(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "record"
            raise RoutingError(
                f"not a routing record: {where}: {first['msg']}; `make promote` writes one anew"
            ) from None

    def _changed(self, why: str, **changes: object) -> Routing:
        content = self.model_dump() | {"at": _now(), "why": why} | changes
        changed = Routing.model_validate(content)
        is_at_hand = changed.former in (*changed.answering, changed.shadow)
        return changed.without_former() if is_at_hand else changed


class GatewayReport(BaseModel):
    """What one gateway says, again and again: a number that rises, the bundles that it serves, and those that
    it refuses, with why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beat: int
    serves: tuple[BundleName, ...]
    refuses: dict[BundleName, str] = {}


@dataclass(frozen=True)
class Written:
    """A record as it stood in Redis, by which a change knows whether another came first."""

    routing: Routing
    text: str = ""
    """Empty where there was no record."""

    @classmethod
    def read(cls, value: bytes | None, bundle: str) -> Written:
        """Takes what Redis holds; where that is nothing, `bundle`, that of the link, answers everyone.

        Raises:
            RoutingError: it holds something else.
        """
        if value is None:
            return cls(Routing(champion=bundle))
        return cls(Routing.decode(value), value.decode())


def place_of(user_id: int, experiment: str) -> float:
    """Gives a user's place in an experiment, in [0, 1): a hash of both, so that two experiments divide users
    independently."""
    digest = hashlib.blake2b(f"{experiment}:{user_id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
