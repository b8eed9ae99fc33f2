"""Brings the servers of one machine up and down.

`python -m deploy.local.stack up [name ...]`, `down` or `status`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
from redis import ConnectionError as RedisUnreachable
from redis import RedisError
from redis import TimeoutError as RedisLate

from contract.bundle import BundleError
from contract.environment import REDIS_URL, explain_redis
from contract.routing import RoutingError
from deploy.local.ports import PortTaken, check_free
from deploy.local.programs import (
    Program,
    http_fault,
    programs,
    redis_fault,
    redis_warning,
    waiting_events,
    watched,
)
from deploy.local.routing import dataset_of, follow_link, linked, load_anew, serve_link, told_routing
from deploy.local.settings import LocalSettings, load_settings
from deploy.local.supervisor import Supervisor, socket_path, start_supervisor, write_config
from ensemble.triton.repository import LoadError

PAUSE_S = 0.1
REPORT_AFTER_S = 2.0
REPORT_EVERY_S = 5.0
LOG_LINES = 20
CONNECT_S = 10.0
DEAD = ("FATAL", "EXITED", "UNKNOWN")
ALIVE = ("STARTING", "RUNNING", "BACKOFF")


class StackError(Exception):
    """Says which server did not start, why, and what its log ends with."""


def say(name: str, line: str) -> None:
    """Prints one line of progress; where nobody reads any more, as behind `head`, the work goes on unsaid."""
    try:
        print(f"{name:<8} {line}", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def log_tail(path: Path, lines: int = LOG_LINES) -> str:
    """Gives the last lines of a log, indented; empty where there is none."""
    if not path.is_file():
        return ""
    return "\n".join(f"    {line}" for line in path.read_text(errors="replace").splitlines()[-lines:])


def wait_until_ready(settings: LocalSettings, supervisor: Supervisor, program: Program) -> None:
    """Waits for a program's readiness, and reports what it waits for.

    Raises:
        StackError: it ended, or was not ready in time.
    """
    started = time.monotonic()
    report_at = started + REPORT_AFTER_S
    while fault := program.fault():
        now = time.monotonic()
        state = supervisor.states()[program.name]
        # Two failed starts in a row are no slow start.
        is_failing = state["statename"] == "BACKOFF" and now - started > REPORT_AFTER_S
        gave_up = state["statename"] in DEAD or is_failing
        if gave_up or now - started > settings.ready_timeout_s:
            log = settings.var / "log" / f"{program.name}.log"
            late = f"not ready after {settings.ready_timeout_s:.0f} s"
            why = state["spawnerr"] or ("it ended" if gave_up else late)
            raise StackError(f"{program.name} did not start ({why}); the end of {log}:\n{log_tail(log)}")
        if now > report_at:
            say(program.name, f"not ready yet, {now - started:.0f} s: {fault[:120]}")
            report_at = now + REPORT_EVERY_S
        time.sleep(PAUSE_S)
    say(program.name, f"ready after {time.monotonic() - started:.1f} s")


def check_needs(settings: LocalSettings, wanted: Iterable[Program]) -> None:
    """Checks that what a program serves has been made.

    Raises:
        StackError: it has not.
    """
    for program in wanted:
        for path in program.needs:
            if not path.is_file():
                missing = f"{program.name} has nothing to serve yet: {path} is missing"
                raise StackError(f"{missing}; {_remedy(settings)}")


def _remedy(settings: LocalSettings) -> str:
    """Says what makes what is served, as far as it has not been made."""
    if dataset := dataset_of(settings):
        return (
            f"the current bundle, {linked(settings)}, was not exported: run `make materialize export up`, "
            f"with DATA= as it was trained on {dataset}"
        )
    return "run `make demo`, or `make data train promote materialize export up`"


def up(settings: LocalSettings, names: Iterable[str] = ()) -> None:
    """Starts the named programs, all by default, and waits for them. What is up and unchanged stays.

    Raises:
        StackError: one did not start, or has nothing to serve.
        PortTaken: a port is held by another process.
    """
    known = programs(settings)
    names = list(names)
    wanted = [known[name] for name in (names or known) if name in known]
    if settings.has_own_redis:
        if fault := redis_fault(settings.redis):
            raise StackError(f"redis: {fault}; unset {REDIS_URL} for a local one")
        say("redis", f"your own at {settings.redis.address}")
    check_needs(settings, wanted)
    supervisor = Supervisor(socket_path(settings))
    was_up = supervisor.is_up()
    states = supervisor.states() if was_up else {}
    alive = {name for name, state in states.items() if state["statename"] in ALIVE}
    if was_up and told_redis(settings) != settings.redis.get_secret_value():
        say("stack", f"{REDIS_URL} is another than at the start, restarting: {', '.join(sorted(alive))}")
        down(settings)
        wanted += [known[name] for name in known if name in alive and known[name] not in wanted]
        was_up, alive = False, set()
    check_free({setting: port for p in wanted if p.name not in alive for setting, port in p.ports.items()})
    config = write_config(settings, known.values())
    if was_up:
        replaced = supervisor.reload() & alive
        if replaced:
            say("stack", f"changed since it was started, restarting: {', '.join(sorted(replaced))}")
        wanted += [known[name] for name in known if name in replaced and known[name] not in wanted]
        alive -= replaced
    else:
        supervisor = start_supervisor(settings, config)
    for program in wanted:
        ports = ", ".join(str(port) for port in program.ports.values())
        where = f" on {ports}" if ports else ""
        if program.name == "triton":
            prepare_bundles(settings, is_cold="triton" not in alive)
        if program.name in alive and not program.fault():
            say(program.name, f"is up{where}")
            continue
        if program.name not in alive:
            say(program.name, f"starting{where}")
            supervisor.start(program.name)
        wait_until_ready(settings, supervisor, program)
    if not names:
        tell_readiness(settings)


def prepare_bundles(settings: LocalSettings, *, is_cold: bool) -> None:
    """Makes the bundle of the link the champion; where Triton runs already, once it is loaded there, and what
    was exported anew since is loaded again. A cold one starts without Redis as well: it loads the bundle of
    the link, and follows the record once it can.

    Raises:
        StackError: link or record cannot be read, or a bundle is refused.
    """
    try:
        if not is_cold:
            load_anew(settings)
        if message := follow_link(settings) if is_cold else serve_link(settings):
            say("bundles", message)
    except RedisError as error:
        fault = f"Redis at {settings.redis.address}: {explain_redis(error)}"
        if not (is_cold and isinstance(error, RedisUnreachable | RedisLate)):
            raise StackError(f"bundles: {fault}") from None
        say("bundles", f"the link's is loaded, as the record cannot be read: {fault}")
    except (BundleError, RoutingError, LoadError, OSError) as error:
        raise StackError(f"bundles: {error}") from None


def told_redis(settings: LocalSettings) -> str:
    """Gives the URL of Redis that the running supervisor was started with, and gives to its programs."""
    pid = int((settings.var / "run" / "supervisord.pid").read_text())
    variables: dict[str, str] = psutil.Process(pid).environ()
    return variables.get(REDIS_URL, "")


def tell_readiness(settings: LocalSettings) -> None:
    """Says what the gateway, which answers whatever happens, still lacks."""
    until = time.monotonic() + CONNECT_S
    while (fault := http_fault(f"{settings.gateway_url}/readyz")) and time.monotonic() < until:
        time.sleep(PAUSE_S)
    if fault:
        say("gateway", f"answers with popular slates, as something is not ready: {fault}")


def orphans(settings: LocalSettings) -> list[psutil.Process]:
    """Finds the servers that a killed supervisord of this checkout left behind."""
    found = []
    for process in psutil.process_iter():
        try:
            variables = process.environ()
        except psutil.Error:
            continue
        is_ours = variables.get("SHORTLIST_VAR_DIR") == str(settings.var)
        if is_ours and variables.get("SUPERVISOR_PROCESS_NAME"):
            found.append(process)
    return found


def down(settings: LocalSettings) -> None:
    """Stops everything and waits until it has ended."""
    supervisor = Supervisor(socket_path(settings))
    if not supervisor.is_up():
        left = orphans(settings)
        for process in left:
            say(
                "stack",
                f"stopping {process.name()}, process {process.pid}, left by a supervisor that was killed",
            )
            process.terminate()
        for process in psutil.wait_procs(left, settings.stop_timeout_s)[1]:
            process.kill()
        if not left:
            say("stack", "nothing runs")
        return
    pids = [state["pid"] for state in supervisor.states().values() if state["pid"]]
    running = [name for name, state in supervisor.states().items() if state["statename"] in ALIVE]
    say("stack", f"stopping {', '.join(running) or 'the supervisor'}")
    pids.append(int((settings.var / "run" / "supervisord.pid").read_text()))
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    supervisor.shut_down()
    _, alive = psutil.wait_procs(processes, timeout=settings.stop_timeout_s + 5.0)
    if alive:
        raise StackError(f"still running: {', '.join(f'{p.name()} ({p.pid})' for p in alive)}")
    say("stack", "stopped")


def status(settings: LocalSettings) -> None:
    """Prints each program's state, process and readiness."""
    supervisor = Supervisor(socket_path(settings))
    if settings.has_own_redis:
        say("redis", f"your own, {redis_fault(settings.redis) or f'ready at {settings.redis.address}'}")
        if warning := redis_warning(settings.redis):
            say("redis", warning)
    if not supervisor.is_up():
        say("stack", "nothing runs")
        return
    known = programs(settings)
    for name, state in supervisor.states().items():
        if state["statename"] not in ALIVE:
            say(name, state["statename"].lower())
            continue
        fault = known[name].fault() if name in known else ""
        readiness = f"not ready: {fault}" if fault else "ready"
        say(name, f"{state['statename'].lower()}, process {state['pid']}, {readiness}")
        if name == "redis" and not fault and (warning := redis_warning(settings.redis)):
            say(name, warning)
        if name == "triton" and not fault:
            for line in told_routing(settings):
                say(name, line)
        if name == "gateway" and not fault and (lack := http_fault(f"{settings.gateway_url}/readyz")):
            say(name, f"answers, and is not ready: {lack}")
        if name == "consumer" and (waiting := waiting_events(settings.gateway_url)):
            say(name, waiting)
        if name == "observer" and (found := watched(settings.redis, dataset_of(settings))):
            for line in found.lines():
                say(name, line)


def main() -> int:
    """Runs one command; a failure is one line, and its log's end where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("up", "down", "status"))
    parser.add_argument(
        "names", nargs="*", help="for up: of redis, triton, gateway, consumer, observer; default: all"
    )
    arguments = parser.parse_args()
    settings = load_settings()
    try:
        if arguments.command == "up":
            up(settings, arguments.names)
            if not arguments.names:
                say(
                    "stack",
                    f"serving at {settings.gateway_url}; logs in {os.path.relpath(settings.var / 'log')}",
                )
        elif arguments.command == "down":
            down(settings)
        else:
            status(settings)
    except (StackError, PortTaken, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; `make down` stops what was started", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
