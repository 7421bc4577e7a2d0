"""The LLM steps against a faulty server: nothing is lost, nothing is asked twice, nothing leaks."""

import asyncio
import json
import logging
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from llm_server import TRANSPORT, LlmServer, items, section

from medtune.errors import ConfigError, ModelError
from medtune.llm.cache import ReplyCache
from medtune.llm.client import Client, Reply
from medtune.llm.items import ReportItem
from medtune.llm.run import run_step
from medtune.tables import read_rows

KEY = "sk-not-to-be-seen"


def run(work: Path, config, asked, step="conversation_grounded"):
    """Run a step; return its summary, results and rejects."""
    output, rejects = work / "out" / "0000.parquet", work / "rejects.parquet"
    summary = run_step(config, step, asked, work / "cache", output, rejects)
    return summary, read_rows(output), read_rows(rejects)


@pytest.mark.parametrize("failure", TRANSPORT[1:])
def test_a_failure_of_the_server_is_outlived(failure, tmp_path):
    with LlmServer(transport=failure) as server:
        summary, rows, rejects = run(tmp_path, section(server.url), items(7))
    assert [row["id"] for row in rows] == [f"made/{n:03d}" for n in range(7)]
    assert set(server.asked.values()) == {2}
    assert set(server.answered.values()) == {1}
    assert (summary.done, summary.rejected, rejects) == (7, 0, [])
    assert summary.asked == 6  # of seven items two are equal
    assert summary.from_cache == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("broken", "json"),
        ("refusal", "json"),
        ("order", "turns"),
        ("box", "box"),
        ("prior", "prior"),
    ],
)
def test_a_wrong_answer_is_asked_for_again_with_the_reason(fault, kind, tmp_path):
    with LlmServer(content=fault) as server:
        summary, rows, rejects = run(tmp_path, section(server.url), items(3))
    assert [row["attempts"] for row in rows] == [2, 2, 2]
    assert summary.reasons == {kind: 3}
    assert [(row["id"], row["attempt"], row["dropped"]) for row in rejects] == [
        (f"made/{n:03d}", 0, False) for n in range(3)
    ]
    assert all(json.loads(row["reasons"])[0].startswith(f"{kind}:") for row in rejects)
    assert all(row["text"] for row in rejects)
    asked_again = [body["messages"][-1]["content"] for body in server.bodies]
    assert sum(f"- {kind}: " in text for text in asked_again) == 2


def test_who_never_answers_well_is_rejected_within_the_bound(tmp_path):
    with LlmServer(content="prior") as server:
        summary, rows, rejects = run(tmp_path, section(server.url, reasks=0), items(3))
        assert rows == []
        assert (summary.done, summary.rejected) == (0, 3)
        assert all(row["dropped"] for row in rejects)
        again, _, same = run(tmp_path, section(server.url, reasks=0), items(3))
    assert (again.asked, again.from_cache, same) == (0, 3, rejects)


def test_the_result_is_the_same_whatever_fails(tmp_path):
    """And follows from the answers alone, to the byte."""
    with LlmServer(content=None) as calm, LlmServer(transport=None, content=None) as faulty:
        run(tmp_path / "a", section(calm.url), items(40))
        run(tmp_path / "b", section(faulty.url, {"concurrency": 2}), items(40)[::-1])
    for name in ("out/0000.parquet", "rejects.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_tokens_and_cost_are_those_of_this_run(tmp_path):
    prices = {"input": 2.0, "output": 10.0}
    with LlmServer() as server:
        config = section(server.url, {"prices": prices})
        first, rows, _ = run(tmp_path, config, items(4))
        again, same, _ = run(tmp_path, config, items(4))
        free, _, _ = run(tmp_path / "other", section(server.url), items(4))
    sent = sum(len(str(body["messages"])) for body in server.bodies[:3])
    assert first.tokens_in == sent
    assert first.cost == (2 * first.tokens_in + 10 * first.tokens_out) / 1e6 > 0
    assert (again.tokens_in, again.cost, same) == (0, 0, rows)
    assert sum(row["tokens_in"] for row in rows) > sent  # equal items: paid once, told twice
    assert free.cost is None


def test_no_more_requests_at_once_and_per_minute_than_allowed(tmp_path):
    with LlmServer(delay=0.1) as server:
        run(tmp_path / "a", section(server.url, {"concurrency": 3}), items(10))
        assert server.most == 3
        server.times.clear()
        limit = {"concurrency": 3, "requests_per_minute": 600}
        run(tmp_path / "b", section(server.url, limit), items(7))
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert sum(gaps) > 5 * 0.1 * 0.95


def test_all_wait_when_the_server_asks_for_it(tmp_path):
    with LlmServer(transport="429") as server:
        run(tmp_path, section(server.url, {"concurrency": 1}), items(2))
    assert server.times[1] - server.times[0] >= 0.2


def test_pauses_double_up_to_a_cap_and_follow_from_the_question():
    one, other = (Client(section("http://localhost/v1").endpoint, seed) for seed in (1, 2))
    pauses = [one.pause("k", attempt) for attempt in range(2000)]
    assert pauses == [one.pause("k", attempt) for attempt in range(2000)]
    assert pauses[0] != other.pause("k", 0) != one.pause("l", 0)
    for attempt, pause in enumerate(pauses):
        longest = min(60, 0.01 * 2 ** min(attempt, 40))
        assert longest / 2 <= pause <= longest


@pytest.mark.parametrize(
    "endpoint", [{"retries": 1}, {"retries": 500, "question_seconds": 0.3}], ids=["count", "time"]
)
def test_an_endpoint_that_is_gone_ends_the_run_and_loses_nothing(endpoint, tmp_path):
    with LlmServer() as server:
        run(tmp_path, section(server.url), items(3))
        asked = [*items(3), *(one.model_copy(update={"id": "x", "view": "PA"}) for one in items(2))]
        asked = list({one.id: one for one in asked}.values())
        server.transport = "500"
        with pytest.raises(ModelError, match="1 of 4 items got no answer"):
            gone = LlmServer(transport="500")
            gone.reply = lambda handler, _: handler.send(500, b"")
            with gone:
                run(tmp_path, section(gone.url, endpoint), asked)
        summary, rows, _ = run(tmp_path, section(server.url), asked)
    assert (summary.asked, len(rows)) == (1, 4)


def test_a_refused_client_stops_at_once(tmp_path):
    server = LlmServer()
    server.reply = lambda handler, _: handler.send(401, b"")
    with server, pytest.raises(ConfigError, match="status 401"):
        run(tmp_path, section(server.url), items(60))
    assert len(server.bodies) <= 6


def test_a_refused_question_is_a_reject_and_all_refused_is_an_error(tmp_path):
    with LlmServer() as server:
        usual = server.reply

        def picky(handler, body) -> None:
            if "number 1" in body["messages"][-1]["content"]:
                handler.send(400, b"too long: <patient text>")
            else:
                usual(handler, body)

        server.reply = picky
        summary, _, rejects = run(tmp_path, section(server.url), items(4))
        assert (summary.done, summary.rejected) == (3, 1)
        assert "status 400: too long" in rejects[0]["reasons"]
        with pytest.raises(ConfigError, match="refuses every question") as error:
            run(tmp_path, section(server.url), [one for one in items(4) if one.id == "made/001"])
    assert "patient text" not in str(error.value)


def test_a_filter_of_the_endpoint_is_a_reject_that_is_not_asked_for_again(tmp_path):
    server = LlmServer()
    body = b'{"error": {"code": "content_filter"}}'
    server.reply = lambda handler, _: handler.send(400, body)
    with server:
        summary, _, _ = run(tmp_path, section(server.url, reasks=0), items(2))
        assert summary.reasons == {"refusal": 2}
        again, _, _ = run(tmp_path, section(server.url, reasks=0), items(2))
    assert again.asked == 0


def test_the_schema_is_asked_for_where_it_is_understood(tmp_path):
    with LlmServer() as server:
        run(tmp_path, section(server.url), items(2))
        run(tmp_path, section(server.url, structured_output=False, temperature=None), items(2))
    form = server.bodies[0]["response_format"]["json_schema"]
    assert form["schema"]["properties"].keys() == {"turns"}
    assert "response_format" not in server.bodies[1]
    assert "temperature" not in server.bodies[1]
    assert all(not str(body).count("made/") for body in server.bodies)  # no id is sent


def test_azure_is_asked_in_its_own_way(tmp_path, monkeypatch):
    monkeypatch.setenv("AZURE_KEY", KEY)
    with LlmServer() as server:
        azure = {"kind": "azure", "deployment": "d", "api_version": "v1", "key_env": "AZURE_KEY"}
        place = section(server.url.removesuffix("/v1"), azure)
        run(tmp_path, place, items(2))
    assert server.paths == ["/openai/deployments/d/chat/completions?api-version=v1"]
    assert server.headers[0]["api-key"] == KEY
    assert "Authorization" not in server.headers[0]


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
        import httpx

        seen.append((str(url), json["messages"][-1]["content"]))
        return httpx.Response(200, json={"choices": [{"message": {"content": '{"report": null}'}}]})

    monkeypatch.setattr("httpx.AsyncClient.post", post)
    place = section("http://api.example.org/v1", {"allow_remote": ["open"], "concurrency": 1})
    asked = [ReportItem(id=name, source=name, report=f"Of {name}.") for name in ("open", "closed")]
    with pytest.raises(ConfigError, match="'closed' would leave this machine"):
        run(tmp_path, place, asked, "filter")
    assert seen == [("http://api.example.org/v1/chat/completions", "Report:\nOf open.")]


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

        do_GET = do_CONNECT = do_POST

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
        summary, _, _ = run(tmp_path, section(server.url), items(3))
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
        summary, _, _ = run(tmp_path, section(url), items(2))
        port = url.split(":")[2].partition("/")[0]
        assert server.headers[0]["Host"] == f"rebind.test:{port}"
    assert summary.done == 2
    assert calls.count("rebind.test") == 1


def test_of_equal_questions_one_is_asked(tmp_path):
    asked = []

    async def ask() -> Reply:
        asked.append(1)
        await asyncio.sleep(0.01)
        return Reply(text="a", finish="stop")

    async def both() -> list[tuple[Reply, bool]]:
        cache = ReplyCache(tmp_path, "0000")
        return await asyncio.gather(*(cache.get("k", ask) for _ in range(5)))

    found = asyncio.run(both())
    assert sorted(cached for _, cached in found) == [False, True, True, True, True]
    assert len(asked) == 1


def test_the_cache_outlives_a_torn_line_and_is_read_by_other_shards(tmp_path):
    async def put(name: str, key: str) -> None:
        async def ask() -> Reply:
            return Reply(text=f"é {key}", finish="stop")

        await ReplyCache(tmp_path, name).get(key, ask)

    asyncio.run(put("0000", "k1"))
    with (tmp_path / "0000.jsonl").open("ab") as file:
        file.write('{"key": "k2", "reply": {"text": "h\u00e9'.encode()[:-1])
    asyncio.run(put("0000", "k3"))
    asyncio.run(put("0001", "k4"))
    cache = ReplyCache(tmp_path, "0001")
    found = {key: cache.find(key) for key in ("k1", "k2", "k3", "k4")}
    assert found.pop("k2") is None
    assert [reply.text for reply in found.values()] == ["é k1", "é k3", "é k4"]


SCRIPT = str(Path(__file__).with_name("llm_server.py"))
COUNT = 60


def start(url: str, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, SCRIPT, url, str(folder), str(COUNT)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def kept(server: LlmServer, folder: Path) -> set[str]:
    """Which questions a journal holds the answers of, by the server's keys."""
    replies = set()
    for journal in (folder / "cache").glob("*.jsonl"):
        for line in journal.read_bytes().splitlines():
            try:
                replies.add(json.loads(line)["reply"]["text"])
            except ValueError:
                continue
    return {server.marks[text] for text in replies}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_no_item_is_asked_twice_or_lost_however_often_it_is_killed(number, tmp_path):
    rng = random.Random(5)
    with LlmServer(content=None) as calm:
        run(tmp_path / "whole", section(calm.url), items(COUNT))
        questions = len(calm.bodies)
    work, told = tmp_path / "killed", []
    with LlmServer(content=None, delay=0.05) as server:
        for _ in range(5):
            process = start(server.url, work)
            enough = len(server.bodies) + rng.randrange(2, 15)
            while len(server.bodies) < enough and process.poll() is None:
                time.sleep(0.002)
            time.sleep(rng.random() * 0.05)
            process.send_signal(number)
            told.append(process.communicate(timeout=30)[1])
            assert not (work / "out" / "0000.parquet").exists()
            safe = {key: server.asked[key] for key in kept(server, work)}
        last = start(server.url, work)
        said = last.communicate(timeout=60)[1]
        assert last.returncode == 0, said
        # Nothing that was answered and kept is asked for again.
        assert {key: server.asked[key] for key in safe} == safe
    assert len(safe) > 10
    assert set(server.asked) == set(calm.asked)
    # Twice at most what was under way at a kill: 6 at once, 5 kills.
    assert 0 < len(server.bodies) - questions <= 5 * 6
    for name in ("out/0000.parquet", "rejects.parquet"):
        assert (work / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    if number == signal.SIGINT:
        assert [text for text in told if f"of {COUNT} items done; run it again" not in text] == []
