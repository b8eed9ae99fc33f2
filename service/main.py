"""Builds the app and serves it: `python -m service.main`."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import NoReturn

import structlog
import uvicorn
from fastapi import FastAPI

from service.bundle import Bundle, BundleUnreadable, read_bundle
from service.http import health, pages, routes
from service.http.access import AccessLayer
from service.http.body import BodyLayer
from service.http.checks import Checks
from service.http.connections import bounded_protocol
from service.http.endpoint import RecommendEndpoint
from service.http.openapi import describe
from service.http.overload import OverloadLayer
from service.http.problems import install_handlers
from service.http.requests import RECOMMENDATIONS, RequestLayer
from service.http.warm import WarmUp
from service.limits.deadline import Deadline
from service.logs import configure_logs
from service.metrics import Metrics
from service.settings import Settings, WrongSettings, load_settings
from service.slates.answer import Answers
from service.store.redis_store import RedisStore
from service.store.store import Store
from service.triton.client import Recommender, TritonRecommender

log = structlog.get_logger()

VERSION = "1"
"""Of the API; part of its paths."""


def build_app(
    settings: Settings, bundle: Bundle, recommender: Recommender | None = None, store: Store | None = None
) -> FastAPI:
    """Builds the gateway.

    Triton and Redis are reached when it starts, unless a recommender or a store is given.
    """
    manifest = bundle.manifest
    metrics = Metrics(manifest.bundle, manifest.dataset)
    sample = manifest.sample_user_ids[0] if manifest.sample_user_ids else 0
    recommender = recommender or TritonRecommender(settings.triton, manifest.bundle, manifest.context, sample)
    if store is None:
        store = RedisStore(
            settings.redis_url,
            manifest.bundle,
            settings.store_timeout_ms / 1000,
            settings.kept_cards,
            dataset=manifest.dataset,
            pointer_s=settings.pointer_ms / 1000,
            availability_s=settings.availability_ms / 1000,
        )
        metrics.watch_circuit(store.circuit)

    answers = Answers(settings, bundle, recommender, store, metrics)
    # Warmed up is a twin without keys, whose counts nobody reads: no caller asked these requests.
    unread = Metrics(manifest.bundle, manifest.dataset)
    open_to_all = settings.model_copy(update={"api_keys": ()})
    twin = _assemble(open_to_all, Answers(settings, bundle, recommender, store, unread))
    warm_up = WarmUp(twin, manifest.sample_user_ids, settings.warm_up_requests)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for server in (recommender, store):
                if isinstance(server, TritonRecommender | RedisStore):
                    await server.open()
                    stack.push_async_callback(server.close)
            # Beside the first requests; a server that is down does not stop the start.
            preparing = asyncio.create_task(_prepare(settings, recommender, store, warm_up))
            watching = asyncio.create_task(answers.room.watch(metrics.loop_came_late))
            yield
            preparing.cancel()
            watching.cancel()

    app = _assemble(settings, answers, lifespan)
    app.state.warm_up = warm_up
    return app


def _assemble(
    settings: Settings,
    answers: Answers,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """Puts routes and layers together."""
    metrics = answers.metrics
    app = FastAPI(
        title="Shortlist",
        summary="Recommendations within a latency budget.",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.answers = answers
    app.state.checks = Checks(answers.recommender, answers.store, settings.check_timeout_ms / 1000)
    for part in (routes, health, pages):
        app.include_router(part.router)
    install_handlers(app)
    # The last one added is the outermost: a request is named and timed, counted, known, read, and answered.
    app.add_middleware(RecommendEndpoint, answers=answers)
    app.add_middleware(
        BodyLayer,
        paths=[RECOMMENDATIONS],
        max_bytes=settings.max_body_bytes,
        timeout_ms=settings.receive_timeout_ms,
        metrics=metrics,
    )
    app.add_middleware(AccessLayer, keys=settings.api_keys, metrics=metrics)
    app.add_middleware(OverloadLayer, room=answers.room, metrics=metrics)
    app.add_middleware(RequestLayer, metrics=metrics)
    describe(app, answers.bundle.manifest, settings)
    return app


async def _prepare(settings: Settings, recommender: Recommender, store: Store, warm_up: WarmUp) -> None:
    seconds = settings.check_timeout_ms / 1000
    checks = {"triton": recommender.check(Deadline.after(seconds)), "redis": store.check(seconds)}
    found = await asyncio.gather(*checks.values(), return_exceptions=True)
    for name, result in zip(checks, found, strict=True):
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


def _stop(message: str) -> NoReturn:
    sys.stderr.write(f"gateway: {message}\n")
    sys.exit(2)


def main() -> None:
    """Serves until SIGTERM or SIGINT; requests in flight finish first."""
    try:
        settings = load_settings()
        bundle = read_bundle(settings.bundle)
        listener = listen(settings.host, settings.port)
    except (WrongSettings, BundleUnreadable) as error:
        _stop(str(error))
    configure_logs(settings.log_level)
    app = build_app(settings, bundle)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=bounded_protocol(settings, app.state.answers.metrics.refused),
        ws="none",
        timeout_keep_alive=settings.idle_timeout_s,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(
            number, lambda *_: None
        )  # uvicorn raises it once more when all is done: then exit with 0
    host, port = listener.getsockname()[:2]
    log.info("listening", url=f"http://{host}:{port}", bundle=bundle.name)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
