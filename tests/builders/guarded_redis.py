"""A Redis as people run it: a user who may do what docs/operations.md lists and no more; TLS before it."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from redis import Redis

from contract.environment import RedisUrl
from tests.builders.certificates import make_certificates

USER, PASSWORD = "shortlist", "s3cr3t, /@:?#%\"'$é"
DOCS = Path(__file__).parents[2] / "docs" / "operations.md"


def documented_rules() -> list[str]:
    """Reads what the documentation allows the user, but the password."""
    block = re.findall(
        r"```\nACL SETUSER shortlist on >PASSWORD\n(.*?)```", DOCS.read_text(), flags=re.DOTALL
    )
    assert len(block) == 1, "docs/operations.md has one such block"
    return str(block[0]).split()


def as_user(url: RedisUrl, password: str = PASSWORD) -> RedisUrl:
    """Takes a Redis that anyone may enter, gives its URL for the user, whom it makes."""
    with Redis(host=url.host, port=url.port) as admin:
        rules = documented_rules()
        if "search" not in str(
            admin.execute_command("MODULE", "LIST")
        ):  # then there are no commands of vector search
            rules = [rule for rule in rules if not rule.startswith("+ft.")]
        admin.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{password}", *rules)
    return RedisUrl(f"redis://{USER}:{quote(password, safe='')}@{url.address}/0")


@contextmanager
def behind_tls(url: RedisUrl, folder: Path) -> Iterator[RedisUrl]:
    """Ends TLS before a Redis that has none, with a certificate of an authority of its own."""
    made = make_certificates(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    entry = f"{USER}:{quote(url.password, safe='')}@" if url.password else ""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, context, url), daemon=True).start()
        port = listener.getsockname()[1]
        yield RedisUrl(f"rediss://{entry}127.0.0.1:{port}/0?ssl_ca_certs={made.authority}")


@contextmanager
def entered(url: RedisUrl, folder: Path, how: str) -> Iterator[RedisUrl]:
    """Gives a Redis for the user, over TLS where `how` is `tls`."""
    user = as_user(url)
    if how == "tls":
        with behind_tls(user, folder) as secure:
            yield secure
    else:
        yield user


def _serve(listener: socket.socket, context: ssl.SSLContext, url: RedisUrl) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_join, args=(client, context, url), daemon=True).start()


def _join(client: socket.socket, context: ssl.SSLContext, url: RedisUrl) -> None:
    with suppress(OSError), client, socket.create_connection((url.host, url.port)) as redis:
        client.settimeout(10)
        with context.wrap_socket(client, server_side=True) as secure:
            secure.settimeout(0.01)
            redis.settimeout(0.01)
            while True:
                for source, target in ((secure, redis), (redis, secure)):
                    with suppress(TimeoutError):
                        piece = source.recv(2**16)
                        if not piece:
                            return
                        target.settimeout(10)
                        target.sendall(piece)
                        target.settimeout(0.01)
