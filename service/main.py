"""Builds the app and serves it: `python -m service.main`."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NoReturn

import structlog
import uvicorn
from fastapi import FastAPI

from contract.bundle import BundleError
from service.catalogue.intake import CatalogueIntake
from service.events.intake import EventIntake
from service.events.log import EventLog
from service.http import operations, pages, routes
from service.http.catalogue import add_catalogue_routes
from service.http.events import add_event_route
from service.http.layers import AccessLayer, OverloadLayer, RequestLayer
from service.http.openapi import describe
from service.http.operations import DependencyChecks
from service.http.problems import install_handlers
from service.limits.circuits import Circuit
from service.limits.deadline import Deadline
from service.limits.event_loop import EventLoopLimit
from service.live_items import LiveItemsFollower
from service.logs import configure_logs
from service.metrics import Metrics
from service.routing import Router
from service.settings import Settings, WrongSettings, load_settings
from service.slates.answer import Recommendations
from service.slates.warm_up import WarmUp
from service.variant import Variant

log = structlog.get_logger()

VERSION = "1"
"""Of the API; part of its paths."""


def build_app(settings: Settings, variant: Variant) -> FastAPI:
    """Builds the gateway. Triton and Redis are reached when it starts."""
    bundle, dataset = variant.name, variant.manifest.dataset
    metrics, event_loop = Metrics(bundle, dataset), EventLoopLimit(settings.max_requests)
    router = Router(settings, variant, event_loop, metrics)
    events = EventLog.of(dataset, settings)
    intake = EventIntake(lambda: router.variant.manifest, events, settings, metrics)
    metrics.load.watch_ensemble(lambda: [one.variant.limits for one in router.served.answering.values()])
    metrics.served.watch_batch(lambda: router.served.champion.batch.published)
    for place, circuit in enumerate(variant.circuits):
        metrics.load.watch_circuit(circuit.dependency, partial(_circuit, router, place))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await router.start()
        await events.open()
        warmed = Recommendations(settings, router.variant, event_loop, Metrics(bundle, dataset))
        app.state.warm_up = warm_up = WarmUp(warmed, settings.warm_up_requests)
        # Beside the first requests; a server that is down does not stop the start.
        preparing = asyncio.create_task(_prepare(settings, router.variant, warm_up))
        watching = asyncio.create_task(event_loop.watch(metrics.load.loop_came_late))
        noting = asyncio.create_task(router.shown.keep())
        following = asyncio.create_task(router.follow())
        hearing = asyncio.create_task(LiveItemsFollower(router.variants, events.drop_items).follow())
        yield
        await router.shown.flush()  # first: who cancels a write that is under way loses its notes
        for task in (preparing, watching, noting, following, hearing):
            task.cancel()
        await router.close()
        await events.close()

    app = FastAPI(
        title="Shortlist",
        summary="Recommendations within a latency budget.",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would lead to whatever host the caller's own header names
    )
    app.state.router, app.state.events = router, intake
    app.state.catalogue = CatalogueIntake(lambda: router.variant, events)
    app.state.checks = DependencyChecks(lambda: router.variant, settings.check_timeout_ms / 1000)
    routes.add_slate_routes(app)
    add_event_route(app)
    for part in (routes, operations, pages):
        app.include_router(part.router)
    add_catalogue_routes(app)
    install_handlers(app)
    # The last one added is the outermost: a request is named and timed, counted, known, and answered.
    app.add_middleware(AccessLayer, keys=settings.api_keys, metrics=metrics)
    app.add_middleware(OverloadLayer, limit=event_loop, metrics=metrics)
    app.add_middleware(RequestLayer, metrics=metrics)
    describe(app, lambda: router.variant, settings)
    return app


def _circuit(router: Router, place: int) -> Circuit:
    """One of the champion's circuits."""
    return router.variant.circuits[place]


async def _prepare(settings: Settings, variant: Variant, warm_up: WarmUp) -> None:
    seconds = settings.check_timeout_ms / 1000
    checks = variant.ensemble.check(Deadline.after(seconds)), variant.store.check(seconds)
    found = await asyncio.gather(*checks, return_exceptions=True)
    for name, result in zip(("triton", "redis"), found, strict=True):
        if isinstance(result, BaseException):
            log.warning("dependency_not_ready", dependency=name, reason=str(result))
        else:
            log.info("dependency_ready", dependency=name, detail=result)
    _keep_for_ever()
    await warm_up.run()
    _keep_for_ever()


def _keep_for_ever() -> None:
    """Takes what is there now out of the collector's sight: it took 20 ms, in the middle of requests."""
    gc.collect()
    gc.freeze()


def listen(host: str, port: int) -> socket.socket:
    """Binds the port before anything else starts.

    Raises:
        WrongSettings: it is taken, or the host is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        wrong = f"cannot listen on {host}:{port} ({error.strerror or error})"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise WrongSettings(f"SHORTLIST_PORT: {wrong}; stop what uses it, or set another port") from None
        raise WrongSettings(f"SHORTLIST_HOST: {wrong}; set an address of this machine") from None
    return listener


def uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Says how the app is served; docs/operations.md lists which bound comes from where."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        ws="none",
        timeout_keep_alive=settings.idle_timeout_s,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        log_config=None,
        access_log=False,
        server_header=False,
    )


def server_of(app: FastAPI, settings: Settings) -> uvicorn.Server:
    """Makes the server; the app sees its open connections, and refuses beyond the bound in words of its own:
    uvicorn's own refusal has no retry-after."""
    server = uvicorn.Server(uvicorn_config(app, settings))
    app.state.connections, app.state.max_connections = (
        server.server_state.connections,
        settings.max_connections,
    )
    return server


def _stop(message: str) -> NoReturn:
    sys.stderr.write(f"gateway: {message}\n")
    sys.exit(2)


def main() -> None:
    """Serves until SIGTERM or SIGINT; requests in flight finish first."""
    try:
        settings = load_settings()
        variant = Variant.read(settings.bundle, settings)
        listener = listen(settings.host, settings.port)
    except (WrongSettings, BundleError) as error:
        _stop(str(error))
    configure_logs(settings.log_level)
    app = build_app(settings, variant)
    server = server_of(app, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises it once more when all is done: then exit with 0.
        signal.signal(number, lambda *_: None)
    host, port = listener.getsockname()[:2]
    log.info("listening", url=f"http://{host}:{port}", bundle=variant.name)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
