"""A reload takes over what the server itself reads: keys, hosts, origins, limits, the contents of the TLS files."""

import os
import signal
import ssl
import subprocess
from pathlib import Path

import httpx

from tests.server.conftest import Served, serve

BASE = "llm: {providers: [{type: openai, endpoint: 'http://127.0.0.1:9'}]}\n"
FIRST, SECOND = "first-key-0123456789-abc", "second-key-0123456789-ab"


def _reloaded(server: Served) -> str:
    """What the server says to a signal."""
    assert server.process.stderr is not None
    os.kill(server.process.pid, signal.SIGHUP)
    return next(line for line in server.process.stderr if line.startswith("reload: "))


def _status(server: Served, key: str = "", path: str = "/models", **headers: str) -> int:
    if key:
        headers["authorization"] = f"Bearer {key}"
    return httpx.get(server.url + path, headers=headers).status_code


def _auth(*keys: str, **limits: int) -> str:
    entries = ", ".join(
        f"{{name: k{n}, key: {key}{''.join(f', {a}: {b}' for a, b in limits.items())}}}" for n, key in enumerate(keys)
    )
    return f"auth: {{keys_file: keys.json, keys: [{entries}]}}\n"


def test_keys_hosts_origins_and_limits_change_without_a_restart(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(BASE + _auth(FIRST))
    with serve(config) as server:
        assert _status(server, FIRST, host="rh.example") == 400
        assert _status(server, FIRST, origin="https://a.example") == 403
        config.write_text(
            BASE
            + "server: {hosts: [rh.example], origins: ['https://a.example'], body_limit_mib: 1, head_limit_kib: 4}\n"
            + _auth(SECOND, FIRST, requests_per_minute=1)
        )
        assert _reloaded(server) == (
            "reload: renewed: server.hosts, server.origins, server.body_limit_mib, server.head_limit_kib, auth\n"
        )
        assert _status(server, FIRST) == _status(server, SECOND) == 200
        assert _status(server, SECOND, host="rh.example") == 200
        assert _status(server, SECOND, origin="https://a.example") == 200
        assert _status(server, SECOND, x_long="y" * 6000) == 431
        key = {"authorization": f"Bearer {SECOND}"}
        large = httpx.post(server.url + "/chat/completions", content=b" " * (2 << 20), headers=key)
        assert large.status_code == 413
        asked = [httpx.post(server.url + "/chat/completions", json={}, headers=key).status_code for _ in range(2)]
        assert asked == [400, 429]
        config.write_text(BASE + _auth(SECOND))
        assert _reloaded(server).startswith("reload: renewed: ")
        assert _status(server, FIRST) == 401
        assert _status(server, SECOND, host="rh.example") == 400


def test_what_must_not_be_served_is_refused_and_the_old_keys_stay(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(BASE + _auth(FIRST))
    with serve(config) as server:
        config.write_text(BASE + "auth: {required: true, keys_file: keys.json}\n")
        assert "auth.required is true and there is no key" in _reloaded(server)
        assert _status(server, FIRST) == 200
        config.write_text(BASE + "server: {watch: true}\n" + _auth(FIRST))
        assert "at the next start: server.watch" in _reloaded(server)


def _certificate(folder: Path, name: str) -> None:
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    files = ["-keyout", "k.pem", "-out", "c.pem", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *command.split(), *files], cwd=folder, check=True, capture_output=True)


def test_a_certificate_that_was_renewed_in_its_files_is_shown_to_new_connections(tmp_path: Path) -> None:
    _certificate(tmp_path, "old")
    config = tmp_path / "c.yaml"
    config.write_text(BASE + "server: {tls_cert: c.pem, tls_key: k.pem}\n")
    with serve(config) as server:
        host, port = "127.0.0.1", int(server.url.split(":")[2].split("/")[0])
        old = ssl.get_server_certificate((host, port))
        _certificate(tmp_path, "new")
        assert _reloaded(server) == "reload: no difference\n"
        assert ssl.get_server_certificate((host, port)) == (tmp_path / "c.pem").read_text() != old
        (tmp_path / "k.pem").write_text("half a file")
        assert "tls_cert and tls_key cannot be used" in _reloaded(server)
        assert ssl.get_server_certificate((host, port)) == (tmp_path / "c.pem").read_text()
