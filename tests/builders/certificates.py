"""An authority of a test's own, and a server's certificate that it signed."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Certificates:
    """The authority that a client must know, the server's certificate, and its key."""

    authority: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, host: str = HOST) -> Certificates:
    """Makes them with openssl; `host` is the IP address that the certificate is for."""
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    authority_key, request = folder / "ca.key", folder / "server.csr"
    made.key.with_name("names").write_text(f"subjectAltName=IP:{host}\n")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    signing = ("-CA", made.authority, "-CAkey", authority_key, "-CAcreateserial", "-days", "2")
    commands = (
        ("req", "-x509", *new_key, "-keyout", authority_key, "-out", made.authority, "-subj", "/CN=test ca"),
        ("req", *new_key, "-keyout", made.key, "-out", request, "-subj", "/CN=redis"),
        ("x509", "-req", "-in", request, *signing, "-out", made.certificate, "-extfile", folder / "names"),
    )
    for command in commands:
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
    return made
