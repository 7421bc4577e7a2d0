"""Patient text and keys stay where they belong."""

import asyncio
import json
import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from llm_server import LlmServer, items, section

from medtune.llm.guard import local_address
from medtune.runtime.errors import ConfigError
from medtune.texts.items import ReportItem
from medtune.texts.run import run_step

KEY = "sk-not-to-be-seen"


def run(work: Path, config, asked, step="conversation_grounded"):
    output, rejects = work / "out" / "0000.parquet", work / "rejects.parquet"
    return run_step(config, step, asked, work / "cache", output, rejects)


def test_the_key_is_nowhere(tmp_path, monkeypatch, capfd, caplog):
    """Not even when the server repeats it."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SOME_KEY", KEY)
    server = LlmServer()

    def repeating(handler, body) -> None:
        key = handler.headers["Authorization"]
        if len(server.bodies) == 1:
            handler.send(500, key.encode())
        elif len(server.bodies) == 2:
            handler.send(400, key.encode())
        else:
            message = {"content": f"I say {key}", "refusal": None}
            handler.send(200, json.dumps({"choices": [{"message": message}]}).encode())

    server.reply = repeating
    with server:
        run(tmp_path, section(server.url, {"key_env": "SOME_KEY", "concurrency": 1}), items(3))
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    said = "".join(capfd.readouterr()) + caplog.text
    assert b"***" in written
    assert KEY.encode() not in written
    assert KEY not in said
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(ConfigError, match="SOME_KEY is not set"):
        run(tmp_path, section(server.url, {"key_env": "SOME_KEY"}), items(3))


def resolve_to(monkeypatch, *addresses: str) -> None:
    """Let every name lead to given addresses."""

    def fake(host, port, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", fake)


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("https://api.example.org/v1", ["203.0.113.7"]),
        ("http://localhost:1/v1", ["203.0.113.7"]),
        ("http://localhost:1/v1", ["127.0.0.1", "203.0.113.7"]),
        ("http://0.0.0.0:1/v1", ["0.0.0.0"]),
        ("http://node7:1/v1", ["10.0.0.7"]),
    ],
)
def test_patient_text_does_not_leave_unless_the_source_is_switched_on(
    url, addresses, tmp_path, monkeypatch
):
    resolve_to(monkeypatch, *addresses)
    sent = []
    monkeypatch.setattr("httpx.AsyncClient.post", lambda *_, **__: sent.append(1))
    for allowed in ([], ["other"]):
        with pytest.raises(ConfigError) as error:
            run(tmp_path, section(url, {"allow_remote": allowed}), items(3))
        assert "'made'" in str(error.value)
        assert url.split("/")[2].partition(":")[0] in str(error.value)
    assert sent == []


def test_a_source_that_is_switched_on_takes_no_other_with_it(tmp_path, monkeypatch):
    resolve_to(monkeypatch, "203.0.113.7")
    seen = []

    async def post(_, url, json, **__):
        seen.append((str(url), json["messages"][-1]["content"]))
        return httpx.Response(200, json={"choices": [{"message": {"content": '{"report": null}'}}]})

    monkeypatch.setattr("httpx.AsyncClient.post", post)
    place = section("http://api.example.org/v1", {"allow_remote": ["open"], "concurrency": 1})
    asked = [ReportItem(id=name, source=name, report=f"Of {name}.") for name in ("open", "closed")]
    with pytest.raises(ConfigError, match="'closed' would leave this machine"):
        run(tmp_path, place, asked, "filter")
    assert seen == [("http://api.example.org/v1/chat/completions", "Report:\nOf open.")]


@pytest.mark.parametrize(
    ("url", "found", "address"),
    [
        ("http://localhost:8000/v1", ["::1", "127.0.0.1"], "127.0.0.1"),
        ("http://[::1]:8000/v1", ["::1"], "::1"),
        ("http://loop.test/v1", ["127.0.0.9"], "127.0.0.9"),
        ("http://loop.test/v1", [], None),
        ("http://loop.test/v1", ["::ffff:203.0.113.7"], None),
    ],
)
def test_what_is_local(url, found, address, monkeypatch):
    resolve_to(monkeypatch, *found)
    parsed = httpx.URL(url)
    assert asyncio.run(local_address(parsed)) == address
    if address:
        assert parsed.copy_with(host=address).host == address


@pytest.fixture
def elsewhere():
    """A server that must not be spoken to: its URL, and what it was sent."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_CONNECT = do_POST  # noqa: N815 - the names are the base's

        def log_message(self, *_) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status, elsewhere, tmp_path):
    url, got = elsewhere
    server = LlmServer()
    server.reply = lambda handler, _: handler.send(status, b"", Location=f"{url}/v1")
    with server, pytest.raises(ConfigError, match="redirects are not followed"):
        run(tmp_path, section(server.url), items(3))
    assert got == []


def test_a_proxy_of_the_environment_sees_nothing_local(elsewhere, tmp_path, monkeypatch):
    url, got = elsewhere
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with LlmServer() as server:
        summary = run(tmp_path, section(server.url), items(3))
    assert (summary.done, got) == (3, [])


def test_what_was_resolved_is_what_is_connected_to(tmp_path, monkeypatch):
    """A name that is local when it is checked, and not when it is used."""
    found, calls = socket.getaddrinfo, []

    def rebinding(host, port, *rest, **more):
        calls.append(host)
        if host == "rebind.test":
            address = "127.0.0.1" if calls.count(host) == 1 else "203.0.113.7"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]
        return found(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with LlmServer() as server:
        url = server.url.replace("127.0.0.1", "rebind.test")
        summary = run(tmp_path, section(url), items(2))
        port = url.split(":")[2].partition("/")[0]
        assert server.headers[0]["Host"] == f"rebind.test:{port}"
    assert summary.done == 2
    assert calls.count("rebind.test") == 1
