"""Certificates for `mpifarm db start`: an authority of this user, and a server certificate signed by it.

Made by the program openssl, which is nearly everywhere; keys are not something to make by hand in Python. Clients are
given the authority's certificate, so the server's may be made anew at every start.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from mpifarm.errors import SiteError
from mpifarm.process import run_program

_DAYS = "3650"

_CONFIG = """\
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""


def make_certificate(folder: Path, names: Iterable[str]) -> tuple[Path, Path, Path]:
    """The files of (authority's certificate, server's certificate, server's key) in `folder`, which is for this user
    alone. `names`: host names and addresses by which clients will call the server. Raises SiteError."""
    authority, authority_key = folder / "ca.crt", folder / "ca.key"
    certificate, key = folder / "server.crt", folder / "server.key"
    if not (authority.exists() and authority_key.exists()):
        config = _config(folder, f"mpifarm database of uid {os.geteuid()} {secrets.token_hex(4)}", ["localhost"])
        new, new_key = folder / "ca.crt.new", folder / "ca.key.new"
        _make_key(new_key)
        _openssl("req", "-x509", "-new", *config, "-extensions", "authority", "-key", new_key, "-out", new)
        new_key.replace(authority_key)
        new.replace(authority)
    names = list(names)
    config, request = _config(folder, names[0][:64], names), folder / "server.csr"
    _make_key(key)
    _openssl("req", "-new", *config[:2], "-key", key, "-out", request)
    signing = ("-CA", authority, "-CAkey", authority_key, "-set_serial", f"0x{secrets.token_hex(16)}")
    extensions = ("-extfile", config[1], "-extensions", "server", *config[2:])
    _openssl("x509", "-req", "-in", request, *signing, *extensions, "-out", certificate)
    request.unlink()
    Path(config[1]).unlink()
    return authority, certificate, key


def _config(folder: Path, name: str, names: Iterable[str]) -> list[str]:
    file = folder / "openssl.cnf"
    file.write_text(_CONFIG.format(name=name, names=", ".join(map(_alternative, names))))
    return ["-config", str(file), "-days", _DAYS, "-sha256"]


def _alternative(name: str) -> str:
    try:
        return f"IP:{ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def _make_key(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.touch(0o600)
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", file)


def _openssl(*arguments: str | Path) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise SiteError("the program openssl is not there, and makes the certificates: load its module or install it")
    run_program([program, *map(str, arguments)], timeout_s=60)
