"""The local servers' parts that need no server: settings, ports, the supervisor's configuration."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from contract.environment import RedisUrl
from deploy.local import programs, stack, supervisor, triton_server
from deploy.local.ports import PortTaken, check_free, is_free
from deploy.local.settings import LocalSettings
from tests.builders.gateway import BUNDLE, write_bundle
from tests.builders.ports import free_port


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalSettings:
    for name in list(os.environ):
        if name.startswith("SHORTLIST_"):
            monkeypatch.delenv(name)
    return LocalSettings(var_dir=tmp_path / "100% of var")


def test_a_taken_port_is_named_with_its_setting_and_its_holder() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(PortTaken, match=f"port {port} is taken by .*{os.getpid()}.*SHORTLIST_PORT"):
            check_free({"SHORTLIST_PORT": port})
    check_free({"SHORTLIST_PORT": port})


def test_one_port_for_two_servers_is_refused() -> None:
    port = free_port()
    with pytest.raises(PortTaken, match=f"{port} is given to both SHORTLIST_PORT and SHORTLIST_REDIS_PORT"):
        check_free({"SHORTLIST_PORT": port, "SHORTLIST_REDIS_PORT": port})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SHORTLIST_PORT", "http", "valid integer"),
        ("SHORTLIST_REDIS_PORT", "70000", "less than or equal to 65535"),
        ("SHORTLIST_READY_TIMEOUT_S", "0", "greater than 0"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(name: str, value: str, message: str) -> None:
    command = [sys.executable, "-m", "deploy.local.stack", "status"]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {name: value})
    assert run.returncode == 2
    assert run.stderr.startswith(f"settings: {name}={value}: ")
    assert message in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_status_that_nobody_reads_to_its_end_is_no_fault(settings: LocalSettings) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "deploy.local.stack", "status"]
    variables = os.environ | {"SHORTLIST_VAR_DIR": str(settings.var)}
    run = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, env=variables)
    os.close(writes)
    assert (run.returncode, run.stderr) == (0, "")


def test_every_setting_has_a_description() -> None:
    for name, field in LocalSettings.model_fields.items():
        assert field.description, name


def test_a_redis_of_the_users_own_is_not_started(settings: LocalSettings) -> None:
    own = settings.model_copy(update={"redis_url": RedisUrl("redis://cache.example:6379")})
    assert "redis" in programs.programs(settings)
    assert "redis" not in programs.programs(own)
    assert own.environment()["SHORTLIST_REDIS_URL"] == "redis://cache.example:6379"


def test_the_consumer_is_told_where_batch_runs_are_kept(
    settings: LocalSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "SHORTLIST_BATCH_DIR"
    assert programs.consumer_program(settings).environment[name] == ""
    monkeypatch.setenv(name, "/shared/runs")
    assert programs.consumer_program(settings).environment[name] == "/shared/runs", "else it is started anew"


def test_the_local_redis_has_a_password_that_is_made_once_and_is_the_owners(settings: LocalSettings) -> None:
    url = settings.redis
    assert len(url.password) == 48
    assert url == settings.redis == LocalSettings(var_dir=settings.var).redis
    file = settings.var / "redis_password"
    assert (file.read_text(), file.stat().st_mode & 0o777) == (url.password, 0o600)
    inherited = settings.model_copy(update={"redis_url": url})
    assert not inherited.has_own_redis, "a command that `make` told of the local one"
    assert LocalSettings(var_dir=settings.var / "b").redis.password != url.password


def test_no_command_and_no_file_but_its_own_has_the_password(settings: LocalSettings) -> None:
    known = programs.programs(settings)
    config = supervisor.write_config(settings, known.values())
    assert settings.redis.password not in config.read_text()
    assert not any(settings.redis.password in part for program in known.values() for part in program.command)
    holders = [path for path in settings.var.rglob("*") if path.is_file()]
    holders = [path for path in holders if settings.redis.password in path.read_text()]
    assert holders == [settings.var / "redis_password"]
    assert programs.access_path(settings).stat().st_mode & 0o777 == 0o600


def test_the_setting_that_came_before_is_told() -> None:
    command = [sys.executable, "-m", "deploy.local.stack", "status"]
    old = {"SHORTLIST_REDIS_ADDRESS": "cache:6379"}
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | old)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert (
        "SHORTLIST_REDIS_ADDRESS is no longer read: set SHORTLIST_REDIS_URL=redis://host:port" in run.stderr
    )


def test_a_command_of_a_role_is_told_where_the_local_redis_is(settings: LocalSettings) -> None:
    command = [sys.executable, "-m", "deploy.local.run", "dev", "-c"]
    command.append("import os; print(os.environ['SHORTLIST_REDIS_URL'])")
    environment = os.environ | {"SHORTLIST_VAR_DIR": str(settings.var)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.strip() == settings.redis.get_secret_value()


def test_the_configuration_keeps_commands_and_variables_whole(settings: LocalSettings) -> None:
    known = programs.programs(settings)
    parsed = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parsed.read_string(supervisor.render(settings, known.values()))
    for name, program in known.items():
        section = parsed[f"program:{name}"]
        assert tuple(shlex.split(section["command"].replace("%%", "%"))) == program.command
        assert f'SHORTLIST_VAR_DIR="{settings.var}"' in section["environment"].replace("%%", "%")
        assert section["autorestart"] == "true"


def test_the_watch_finds_the_servers_of_this_folder(settings: LocalSettings) -> None:
    parsed = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parsed.read_string(supervisor.render(settings, programs.programs(settings).values()))
    section = parsed["program:watch"]
    assert section["command"].endswith("-m deploy.local.watch")
    assert f'SHORTLIST_VAR_DIR="{settings.var}"' in section["environment"].replace("%%", "%")
    assert section["autorestart"] == "true"
    assert "autostart" not in section, "it starts with the supervisor"


def test_every_server_listens_on_loopback_alone(settings: LocalSettings) -> None:
    triton = triton_server.command(settings, Path("backends"))
    assert [part for part in triton if "address=" in part] == [
        *("--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1")
    ]
    redis = programs.redis_program(settings).command
    assert redis[redis.index("--bind") + 1] == "127.0.0.1"
    assert programs.gateway_program(settings).environment["SHORTLIST_HOST"] == "127.0.0.1"


def test_the_socket_fits_however_deep_the_checkout_is(settings: LocalSettings) -> None:
    deep = settings.model_copy(update={"var_dir": Path("/" + "deep/" * 40)})
    for one in (settings, deep):
        # supervisord binds the path with a dot and its process id appended first.
        assert len(os.fsencode(supervisor.socket_path(one))) + len(".4194304") <= 107
    deeper = settings.model_copy(update={"var_dir": Path("/" + "deep/" * 41)})
    assert supervisor.socket_path(deep) != supervisor.socket_path(deeper)


def test_tritons_python_is_found_first() -> None:
    variables = triton_server.environment({"PATH": "/usr/bin"})
    first = Path(variables["PATH"].split(os.pathsep)[0])
    assert first.parts[-2:] == ("triton", "bin")
    assert "nvidia_pytriton.libs" in variables["LD_LIBRARY_PATH"]
    assert variables["OMP_NUM_THREADS"] == "1"
    assert triton_server.environment({"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"


def test_leftover_shared_memory_of_this_server_alone_is_removed(
    settings: LocalSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_server, "SHARED_MEMORY", tmp_path)
    prefix = triton_server.shared_memory_prefix(settings)
    (tmp_path / f"{prefix}a").touch()
    (tmp_path / "another").touch()
    triton_server.clear_shared_memory(prefix)
    assert [path.name for path in tmp_path.iterdir()] == ["another"]


def test_the_keys_of_the_gateway_follow_every_up() -> None:
    """The supervisor keeps the variables that it was started with; a key taken out must not stay known."""
    keys = f"web:{'0' * 64}"
    assert LocalSettings(api_keys=keys).environment()["SHORTLIST_API_KEYS"] == keys
    assert LocalSettings().environment()["SHORTLIST_API_KEYS"] == ""
    assert LocalSettings(allow_anonymous=True).environment()["SHORTLIST_ALLOW_ANONYMOUS"] == "true"


def test_a_python_process_that_a_killed_server_left_is_ended(settings: LocalSettings, tmp_path: Path) -> None:
    prefix = triton_server.shared_memory_prefix(settings)
    stub = tmp_path / triton_server.STUB
    stub.symlink_to("/bin/bash")
    waits = ["-c", "read"]
    with (
        subprocess.Popen([str(stub), *waits, f"{prefix}1234"], stdin=subprocess.PIPE) as ours,
        subprocess.Popen([str(stub), *waits, "shortlist_1_1234"], stdin=subprocess.PIPE) as another,
    ):
        triton_server.end_orphans(prefix)
        assert ours.wait(10) == -signal.SIGKILL
        assert another.poll() is None
        another.kill()


def test_a_cold_triton_does_not_wait_for_redis_and_a_running_one_changes_nothing_without_it(
    settings: LocalSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(error: Exception) -> Callable[[LocalSettings], str]:
        def read(_: LocalSettings) -> str:
            raise error

        return read

    fault = f"Redis at {settings.redis.address}: gone; start it (`make up`)"
    for error in (redis.ConnectionError("gone"), redis.TimeoutError("gone")):
        for name in ("follow_link", "serve_link"):
            monkeypatch.setattr(stack, name, refuse(error))
        stack.prepare_bundles(settings, is_cold=True)
        assert fault in capsys.readouterr().out
        with pytest.raises(stack.StackError, match=f"^bundles: {re.escape(fault)}"):
            stack.prepare_bundles(settings, is_cold=False)
    monkeypatch.setattr(stack, "follow_link", refuse(redis.ResponseError("WRONGTYPE")))
    with pytest.raises(stack.StackError, match=r"^bundles: Redis at .*WRONGTYPE"):
        stack.prepare_bundles(settings, is_cold=True)


def test_what_is_not_made_yet_is_told_with_every_command_that_makes_it(
    settings: LocalSettings,
) -> None:
    with pytest.raises(stack.StackError, match="`make data train promote materialize export up`"):
        stack.up(settings)
    write_bundle(settings.bundle)
    with pytest.raises(stack.StackError) as raised:
        stack.up(settings)
    assert f"the current bundle, {BUNDLE}, was not exported" in str(raised.value)
    assert "run `make materialize export up`, with DATA= as it was trained on synthetic" in str(raised.value)
