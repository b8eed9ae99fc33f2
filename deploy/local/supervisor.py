"""Writes supervisord's configuration, starts it, and talks to it over its unix socket."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from contract.environment import REDIS_URL
from contract.whole_file import whole_file
from deploy.local.programs import Program, write_access
from deploy.local.settings import ROOT, LocalSettings, python_of

LONGEST_SOCKET_PATH = 96
"""Bytes. A unix socket's path is at most 107, and supervisord first binds it with its process id appended."""
START_TIMEOUT_S = 10.0
SHUTTING_DOWN = 6
RETRIES = "1000"
"""Starts that may fail in a row; the pause before each is a second longer, so this is days, not a loop."""


def socket_path(settings: LocalSettings) -> Path:
    """The supervisor's socket: in `var/run`, or where that path is too long, in the temporary folder."""
    path = settings.var / "run" / "supervisor.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"shortlist-{os.getuid()}-{digest}.sock"


def config_path(settings: LocalSettings) -> Path:
    """Where supervisord's configuration is written."""
    return settings.var / "run" / "supervisord.conf"


def _quoted(variables: Mapping[str, str]) -> str:
    """Writes a program's variables. Where Redis is stays out of the file: it holds a password, and every
    program has it from supervisord's own environment."""
    return ",".join(f'{name}="{value}"' for name, value in sorted(variables.items()) if name != REDIS_URL)


def render(settings: LocalSettings, programs: Iterable[Program]) -> str:
    """Renders the configuration: each program restarted by itself when it ends, its output in `var/log`."""
    run, log, socket = settings.var / "run", settings.var / "log", socket_path(settings)
    watch = shlex.join([str(python_of("dev")), "-m", "deploy.local.watch"])
    sections: list[tuple[str, dict[str, str]]] = [
        ("unix_http_server", {"file": str(socket), "chmod": "0700"}),
        (
            "supervisord",
            {
                "logfile": str(log / "supervisord.log"),
                "logfile_maxbytes": "5MB",
                "logfile_backups": "1",
                "pidfile": str(run / "supervisord.pid"),
                "directory": str(ROOT),
                "childlogdir": str(log),
            },
        ),
        (
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
        ("supervisorctl", {"serverurl": f"unix://{socket}"}),
        (
            "program:watch",
            {
                "command": watch,
                "environment": _quoted(settings.environment()),
                "directory": str(ROOT),
                "autorestart": "true",
                "startretries": RETRIES,
                "stdout_logfile": "NONE",
                "stderr_logfile": str(log / "watch.log"),
                "stderr_logfile_maxbytes": "1MB",
                "stderr_logfile_backups": "1",
            },
        ),
    ]
    for program in programs:
        fields = {
            "command": shlex.join(program.command),
            "environment": _quoted(program.environment),
            "directory": str(ROOT),
            "autostart": "false",
            "autorestart": "true",
            "startsecs": "1",
            "startretries": RETRIES,
            "stopwaitsecs": f"{settings.stop_timeout_s:.0f}",
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": str(log / f"{program.name}.log"),
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": "2",
        }
        sections.append((f"program:{program.name}", fields))
    lines = ["; Written by deploy/local/supervisor.py at every start; do not edit."]
    for title, fields in sections:
        lines += ["", f"[{title}]", *(f"{key} = {value.replace('%', '%%')}" for key, value in fields.items())]
    return "\n".join(lines) + "\n"


def write_config(settings: LocalSettings, programs: Iterable[Program]) -> Path:
    """Writes the configuration, whole or not at all; makes the folders it names."""
    for folder in ("run", "log"):
        (settings.var / folder).mkdir(parents=True, exist_ok=True)
    write_access(settings)
    path = config_path(settings)
    with whole_file(path) as file:
        file.write(render(settings, programs).encode())
    return path


class Supervisor:
    """A running supervisord. Any method may raise `OSError` where it is gone."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        transport = SupervisorTransport(None, None, f"unix://{socket}")
        self._call: Any = ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def is_up(self) -> bool:
        """Says whether supervisord answers."""
        try:
            return bool(self._call.getState()["statename"] == "RUNNING")
        except (OSError, HTTPException, Fault):
            return False

    def states(self) -> dict[str, dict[str, Any]]:
        """Gives name -> `statename`, `pid`, `start` and more, the watch left out."""
        return {info["name"]: info for info in self._call.getAllProcessInfo() if info["name"] != "watch"}

    def start(self, name: str) -> None:
        """Asks for a program without waiting for it."""
        self._call.startProcess(name, False)

    def stop(self, name: str) -> None:
        """Stops a program and waits until it has ended."""
        self._call.stopProcess(name, True)

    def reload(self) -> set[str]:
        """Takes the configuration anew; stops and replaces the programs that changed and names them."""
        try:
            ((added, changed, removed),) = self._call.reloadConfig()
        except Fault as fault:
            if fault.faultCode == SHUTTING_DOWN:
                return set()
            raise
        for name in (*changed, *removed):
            self._call.stopProcessGroup(name, True)
            self._call.removeProcessGroup(name)
        for name in (*added, *changed):
            self._call.addProcessGroup(name)
        return set(changed)

    def shut_down(self) -> None:
        """Stops every program, then supervisord itself; returns at once."""
        self._call.shutdown()


def start_supervisor(settings: LocalSettings, config: Path) -> Supervisor:
    """Starts supervisord in the background and waits until it answers.

    Raises:
        RuntimeError: it ended or did not answer; the message holds what it said.
    """
    command = [str(python_of("dev")), "-m", "supervisor.supervisord", "--configuration", str(config)]
    variables = os.environ | {REDIS_URL: settings.redis.get_secret_value()}
    started = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables)
    if started.returncode:
        raise RuntimeError(f"supervisord did not start: {(started.stdout + started.stderr).strip()}")
    supervisor, until = Supervisor(socket_path(settings)), time.monotonic() + START_TIMEOUT_S
    while not supervisor.is_up():
        if time.monotonic() > until:
            raise RuntimeError(f"supervisord does not answer; see {settings.var}/log/supervisord.log")
        time.sleep(0.05)
    return supervisor
