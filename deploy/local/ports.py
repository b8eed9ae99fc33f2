"""Finds out whether ports are free before a server is started on them."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import psutil

from deploy.local.settings import LOOPBACK


class PortTaken(Exception):
    """Names the port that is taken, who holds it, and the setting that moves it."""


def is_free(port: int) -> bool:
    """Says whether a server could listen on the port now."""
    with socket.socket() as listener:
        # As servers do: a connection that is only waiting out its close is no obstacle.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def holder(port: int) -> str:
    """Names the process that listens on the port, where this user may know it."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()}, process {connection.pid}"
    except psutil.Error:
        pass
    return "another process"


def check_free(ports: Mapping[str, int]) -> None:
    """Takes setting -> port; each must be free, and no two the same.

    Raises:
        PortTaken: one is not.
    """
    owners: dict[int, str] = {}
    for setting, port in ports.items():
        if port in owners:
            raise PortTaken(f"port {port} is given to both {owners[port]} and {setting}; change one of them")
        owners[port] = setting
        if not is_free(port):
            remedy = f"free it, or set {setting} to another port"
            raise PortTaken(f"port {port} is taken by {holder(port)}; {remedy}")
