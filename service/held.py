"""What this process holds of each bundle that may answer: prepared beside what serves, until it is warm;
refused for a while where it is not; closed once nobody has named it for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import structlog

from contract.bundle import BundleError
from contract.errors import StageError
from service.failures import DependencyUnavailable
from service.limits.deadline import Clock, Deadline
from service.limits.event_loop import EventLoopLimit
from service.metrics import Metrics
from service.settings import Settings
from service.slates.answer import Recommendations
from service.slates.warm_up import WarmUp
from service.triton.client import TritonClient
from service.variant import Variant

log = structlog.get_logger()

PREPARE_S = 10.0
"""Seconds in which a bundle must be read and warm, or it is refused."""
RETRY_S = 5.0
"""Seconds until one that was refused is tried again."""
KEPT_S = 60.0
"""Seconds for which what serves a bundle is kept once the record does not name it any more."""
AGREED = ("dataset", "user_id_dtype", "item_id_dtype")
"""What a bundle must have as the one that this process began with: another needs a restart."""


class Refusal(NamedTuple):
    """Why a bundle was refused, and until when it is not tried again."""

    reason: str
    until_s: float


class HeldBundles:
    """The bundles that are ready, those that are being prepared, and those that were refused."""

    def __init__(
        self,
        settings: Settings,
        first: Variant,
        event_loop: EventLoopLimit,
        metrics: Metrics,
        goes_on: Callable[[], str],
        read: Callable[[str], Variant] | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Takes the bundle that is held for ever, and what names the one that answers where another is
        refused; `read` gives another one by its name, in a thread."""
        self._settings, self._event_loop, self._metrics = settings, event_loop, metrics
        self._first, self._goes_on, self._clock = first, goes_on, clock
        self._read = read or self._read_beside
        self._folder = settings.bundle.resolve()
        self._held = {first.name: Recommendations(settings, first, event_loop, metrics)}
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, Refusal] = {}
        self._left: dict[str, float] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def first(self) -> Recommendations:
        """What answers from the bundle that is held for ever."""
        return self._held[self._first.name]

    def get(self, name: str | None) -> Recommendations | None:
        """Gives what answers from a bundle; None where it is not ready."""
        return self._held.get(name) if name else None

    def variants(self) -> list[Variant]:
        """What is held of each bundle."""
        return [one.variant for one in self._held.values()]

    def refusals(self, names: Iterable[str]) -> dict[str, str]:
        """Says why those of the bundles were refused that were."""
        return {name: self._refused[name].reason for name in names if name in self._refused}

    def follow(self, named: Collection[str], wanted: Iterable[str]) -> None:
        """Prepares what is wanted and not held. One that was refused is tried again after a while, or once it
        is named anew."""
        self._refused = {name: refused for name, refused in self._refused.items() if name in named}
        for name in wanted:
            refusal = self._refused.get(name)
            if name in self._held or name in self._preparing:
                continue
            if refusal is None or refusal.until_s <= self._clock():
                self._preparing[name] = asyncio.get_running_loop().create_task(self._prepare(name))

    async def hold(self, name: str) -> None:
        """Holds a bundle at once, warm or not; one that cannot be read is refused."""
        if name in self._held:
            return
        try:
            variant = await asyncio.to_thread(self._read, name)
        except BundleError as error:
            self._refuse(name, str(error))
            return
        await _open(variant)
        self._keep(variant)

    def let_go(self, named: Collection[str]) -> None:
        """Closes what was not named for a while."""
        now_s = self._clock()
        away = self._held.keys() - {*named, self._first.name}
        self._left = {name: self._left.get(name, now_s) for name in away}
        for name, since_s in self._left.items():
            if now_s - since_s > KEPT_S:
                closing = asyncio.get_running_loop().create_task(_close(self._held.pop(name).variant))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Closes the connections of all but the first."""
        for task in self._preparing.values():
            task.cancel()
        for held in self._held.values():
            if held.variant is not self._first:
                await _close(held.variant)

    async def _prepare(self, name: str) -> None:
        """Reads a bundle, and asks it for real slates until it is warm; else it is refused for a while."""
        try:
            async with asyncio.timeout(PREPARE_S):
                variant = await asyncio.to_thread(self._read, name)
                await self._warm(variant)
        except TimeoutError:
            self._refuse(name, f"is not warm after {PREPARE_S:g} s")
        except (BundleError, DependencyUnavailable, StageError) as error:
            self._refuse(name, str(error))
        except Exception:
            log.exception("bug")
            self._refuse(name, "the log says how it failed")
        else:
            self._keep(variant)
        finally:
            self._preparing.pop(name, None)

    async def _warm(self, variant: Variant) -> None:
        await _open(variant)
        uncounted = Metrics(variant.name, variant.manifest.dataset)
        warmed = Recommendations(self._settings, variant, self._event_loop, uncounted)
        try:
            await variant.ensemble.check(Deadline.after(PREPARE_S))
            await WarmUp(warmed, self._settings.warm_up_requests).run()
        except BaseException:
            await _close(variant)
            raise

    def _keep(self, variant: Variant) -> None:
        self._refused.pop(variant.name, None)
        self._held[variant.name] = Recommendations(self._settings, variant, self._event_loop, self._metrics)

    def _refuse(self, name: str, reason: str) -> None:
        self._refused[name] = Refusal(reason, self._clock() + RETRY_S)
        self._metrics.served.bundle_refused(name)
        log.error("bundle_refused", bundle=name, reason=reason, goes_on=self._goes_on())

    def _read_beside(self, name: str) -> Variant:
        folder = self._folder.with_name(name)
        variant = Variant.read(folder, self._settings, store=self._first.store.beside(name))
        for fact in AGREED:
            theirs, ours = (getattr(each, fact) for each in (variant.manifest, self._first.manifest))
            if theirs != ours:
                raise BundleError(f"{folder}: its {fact} is {theirs}, here {ours}: restart the gateway")
        return variant


async def _open(variant: Variant) -> None:
    """Connects to its model; the store's connections are there."""
    if isinstance(variant.ensemble, TritonClient):
        await variant.ensemble.open()


async def _close(variant: Variant) -> None:
    if isinstance(variant.ensemble, TritonClient):
        await variant.ensemble.close()
