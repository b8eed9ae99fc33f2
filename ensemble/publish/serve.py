"""`python -m ensemble.publish.serve`: loads a bundle into the running Triton, and lets it answer: everyone, a
share of the users, or nobody, as a shadow. The routing record changes last, in one write; whatever fails
before it leaves what was served.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from contract.bundle import BundleError, Manifest, read_manifest
from contract.environment import explain_redis
from contract.keys import bundles_key
from contract.routing import GatewayReport, Routing, RoutingError
from ensemble.settings import EnsembleSettings, load_settings
from ensemble.stores.client import connect
from ensemble.stores.routing import bundle_folder, change_routing, read_reports, read_routing
from ensemble.triton.probe import Probe, Sign
from ensemble.triton.repository import LoadError, ModelRepository

TIMEOUT_MS = 5_000
BEAT_S, FOLLOWED_S, PAUSE_S = 1.0, 20.0, 0.05
"""Seconds after which a gateway that is alive has reported again; in which it must follow; between looks."""
PATIENCE_S = 5.0
"""For one answer of Triton: more than the watch has, as nothing is replaced because of it."""
SLATES = 20
"""Slates that a bundle has to give, one after the other, before anybody is sent to it."""
INTERFACE = ("dataset", "context", "filters", "user_features", "user_id_dtype", "item_id_dtype")
"""What the bundles that are served side by side agree on: callers do not know which one answers them."""
Change = Callable[[Routing], Routing]


class BundleServer:
    """One Triton, one Redis, and the folder of models that the first reads."""

    def __init__(self, redis: Redis, settings: EnsembleSettings) -> None:
        self._redis, self._settings = redis, settings
        host, _, port = settings.triton_http.rpartition(":")
        self._repository = ModelRepository(host, int(port), PATIENCE_S)
        self._probe = Probe(host, int(port), PATIENCE_S)

    def routing(self) -> Routing:
        """What is served."""
        return read_routing(self._redis, self._settings.bundle).routing

    def promote(self, bundle: str, why: str) -> Routing:
        """Makes a bundle the champion, once it is loaded and warm.

        Raises:
            BundleError, LoadError, RoutingError: it is refused; what was served goes on.
        """
        self._check(bundle, ("dataset", "user_id_dtype", "item_id_dtype"))
        return self._serve(bundle, lambda routing: routing.promoted(bundle, why))

    def split(self, bundle: str, share: float, why: str) -> Routing:
        """Gives a bundle this share of the users, once it is loaded and warm; 0 ends its arm.

        Raises:
            BundleError, LoadError, RoutingError: it is refused; what was served goes on.
        """
        if not share:
            return self._change(lambda routing: routing.split(bundle, share, why))
        self.routing().split(bundle, share, why)  # what is refused is refused before it is loaded
        self._check(bundle, INTERFACE)
        return self._serve(bundle, lambda routing: routing.split(bundle, share, why))

    def shadow(self, bundle: str | None, why: str) -> Routing:
        """Asks a bundle beside the champion, once it is loaded and warm; none ends that.

        Raises:
            BundleError, LoadError, RoutingError: it is refused; what was served goes on.
        """
        if bundle is None:
            return self._change(lambda routing: routing.shadowed(None, why))
        self.routing().shadowed(bundle, why)
        self._check(bundle, INTERFACE)
        return self._serve(bundle, lambda routing: routing.shadowed(bundle, why))

    def _check(self, bundle: str, agreed: Sequence[str]) -> None:
        current = self._settings.bundle
        manifest = read_manifest(bundle_folder(current, bundle))
        served = read_manifest(bundle_folder(current, self.routing().champion), verify=False)
        for name in agreed:
            if getattr(manifest, name) != getattr(served, name):
                raise BundleError(
                    f"{bundle}: its {name} differs from that of {served.bundle}, which is served; promote it "
                    "with the servers down, `make down promote materialize export up`"
                )
        self._check_made(manifest)

    def _check_made(self, manifest: Manifest) -> None:
        models = self._settings.var_dir / "models"
        is_indexed = self._redis.zscore(bundles_key(manifest.dataset), manifest.bundle) is not None
        if not (is_indexed and (models / manifest.bundle / "config.pbtxt").is_file()):
            raise BundleError(
                f"{manifest.bundle}: is not in the index, or not in {models}; run ensemble.publish.index and "
                "ensemble.publish.export for it"
            )

    def _serve(self, bundle: str, change: Change) -> Routing:
        self._make_room(bundle)
        self._repository.load(bundle, self._settings.load_timeout_s)
        for _ in range(SLATES):
            found = self._probe.look_at(bundle)
            if found.sign is not Sign.ANSWERS or found.why:
                raise LoadError(f"{bundle}: is loaded and gives no slate in time: {found.sign}: {found.why}")
        before = self.routing()
        changed = self._change(change)
        self._wait_for_gateways(bundle, before, changed)
        return changed

    def _wait_for_gateways(self, bundle: str, before: Routing, changed: Routing) -> None:
        """Waits until every gateway that is alive serves the bundle.

        Raises:
            LoadError: one refuses it, or takes too long; then the record is again what it was.
        """
        reports, began = GatewayReports(self._redis, changed.champion, self._settings), time.monotonic()
        while True:
            time.sleep(PAUSE_S)
            passed_s, alive = time.monotonic() - began, reports.alive()
            refused = next((one.refuses[bundle] for one in alive if bundle in one.refuses), "")
            is_behind = any(bundle not in one.serves for one in alive)
            if passed_s > BEAT_S and not is_behind and not refused:
                return
            if refused or passed_s > FOLLOWED_S:
                break
        back = before.model_copy(update={"why": f"{bundle} was refused"})
        change_routing(self._redis, self._settings.bundle, lambda now: back if now == changed else now)
        refused = refused or f"it does not serve it after {FOLLOWED_S:g} s"
        raise LoadError(f"{bundle}: a gateway refuses it, what was served goes on: {refused}")

    def _change(self, change: Change) -> Routing:
        most = self._settings.loaded_bundles

        def bounded(routing: Routing) -> Routing:
            changed = change(routing)
            return changed if len(changed.bundles) <= most else changed.without_former()

        changed = change_routing(self._redis, self._settings.bundle, bounded)
        self._tidy(changed)
        return changed

    def _make_room(self, bundle: str) -> None:
        """Unloads what is not served, and lets go of the former champion, where as many are loaded as may.

        Raises:
            LoadError: all that are loaded are served.
        """
        most, routing = self._settings.loaded_bundles, self.routing()
        held = [one for one in self._repository.ready() if one != bundle]
        for spare in [one for one in held if one not in routing.bundles]:
            if len(held) >= most:
                self._repository.unload(spare)
                held.remove(spare)
        if len(held) >= most and routing.former in held:
            change_routing(self._redis, self._settings.bundle, Routing.without_former)
            self._repository.unload(routing.former)
            held.remove(routing.former)
        if len(held) >= most:
            raise LoadError(
                f"{bundle}: is not loaded, as {len(held)} bundles are and all are served: end a split or the "
                "shadow, or raise SHORTLIST_LOADED_BUNDLES"
            )

    def _tidy(self, routing: Routing) -> None:
        """Removes the exports of bundles that are in the index no more, nor served, nor loaded."""
        dataset = read_manifest(self._settings.bundle, verify=False).dataset
        indexed: Any = self._redis.zrange(bundles_key(dataset), 0, -1)
        wanted = {*routing.bundles, *self._repository.ready(), *(name.decode() for name in indexed)}
        for folder in (self._settings.var_dir / "models").iterdir():
            if folder.name not in wanted:
                shutil.rmtree(folder, ignore_errors=True)
                shutil.rmtree(self._settings.embeddings_of(folder.name), ignore_errors=True)


class GatewayReports:
    """What the gateways say of the record; one that says nothing new has ended."""

    def __init__(self, redis: Redis, bundle: str, settings: EnsembleSettings) -> None:
        """Takes a bundle of the data set."""
        self._redis = redis
        self._dataset = read_manifest(bundle_folder(settings.bundle, bundle), verify=False).dataset
        self._first = read_reports(redis, self._dataset)

    def alive(self) -> list[GatewayReport]:
        """Those of the gateways that have reported since the beginning."""
        reports = read_reports(self._redis, self._dataset)
        return [one for name, one in reports.items() if one != self._first.get(name)]


def described(routing: Routing) -> list[str]:
    """Says in lines which bundle answers whom."""
    left = 1 - sum(arm.share for arm in routing.arms)
    lines = [f"champion  {routing.champion}  {left:.0%} of the users"]
    lines += [f"arm       {arm.bundle}  {arm.share:.0%} of the users" for arm in routing.arms]
    lines += [f"shadow    {routing.shadow}"] if routing.shadow else []
    lines += [f"former    {routing.former}  at hand for `make rollback`"] if routing.former else []
    return lines + ([f"since     {routing.at}: {routing.why}"] if routing.at else [])


def main(arguments: Sequence[str] | None = None) -> int:
    """Changes what is served, or shows it; 0, or 1 with one line that says what is wrong."""
    settings = load_settings()
    parser = argparse.ArgumentParser(prog="python -m ensemble.publish.serve", description=__doc__)
    parser.add_argument("action", choices=("promote", "split", "shadow", "show"))
    parser.add_argument(
        "--bundle", help="its name; for promote, none is the current one; for shadow, none ends it"
    )
    parser.add_argument("--share", type=float, default=0.0, help="for split: of the users, 0 ends it")
    parser.add_argument("--why", default="asked for", help="told with the record")
    chosen = parser.parse_args(arguments)
    if chosen.action == "split" and not chosen.bundle:
        parser.error("split: --bundle is missing")
    started = time.monotonic()
    try:
        server = BundleServer(connect(settings.redis_url, TIMEOUT_MS), settings)
        if chosen.action == "promote":
            routing = server.promote(chosen.bundle or settings.bundle.resolve().name, chosen.why)
        elif chosen.action == "split":
            routing = server.split(chosen.bundle, chosen.share, chosen.why)
        elif chosen.action == "shadow":
            routing = server.shadow(chosen.bundle, chosen.why)
        else:
            routing = server.routing()
    except (BundleError, LoadError, RoutingError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except RedisError as error:
        sys.stderr.write(f"Redis at {settings.redis_url.address}: {explain_redis(error)}\n")
        return 1
    except (OSError, HTTPException) as error:
        sys.stderr.write(f"Triton at {settings.triton_http}: {error}; is it up?\n")
        return 1
    for line in described(routing):
        sys.stdout.write(f"{line}\n")
    if chosen.action != "show":
        sys.stdout.write(f"done in {time.monotonic() - started:.1f} s\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
