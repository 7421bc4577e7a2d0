"""The LLM steps against a faulty server."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from llm_server import IMPATIENT, TRANSPORT, LlmServer, items, section

from medtune.llm.client import Client, _retry_after
from medtune.runtime.errors import ConfigError, ModelError
from medtune.runtime.files import read_json
from medtune.runtime.tables import read_rows
from medtune.texts.run import PATIENCE, run_step

KEY = "sk-not-to-be-seen"


def run(work: Path, config, asked, step="conversation_grounded"):
    """Run a step; return its summary, results and rejects."""
    output, rejects = work / "out" / "0000.parquet", work / "rejects.parquet"
    summary = run_step(config, step, asked, work / "cache", output, rejects)
    return summary, read_rows(output), read_rows(rejects)


@pytest.mark.parametrize("failure", TRANSPORT[1:])
def test_a_failure_of_the_server_is_outlived(failure, tmp_path):
    with LlmServer(transport=failure) as server:
        endpoint = IMPATIENT if failure == "timeout" else {}
        summary, rows, rejects = run(tmp_path, section(server.url, endpoint), items(7))
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
        run(tmp_path / "b", section(faulty.url, IMPATIENT | {"concurrency": 2}), items(40)[::-1])
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


def test_the_account_is_the_same_however_often_it_runs(tmp_path):
    """And holds what was kept from earlier, and what was asked in vain."""
    path = tmp_path / "out" / "0000.account.json"
    with LlmServer(content="prior") as server:
        config = section(server.url, {"prices": {"input": 2.0, "output": 10.0}}, reasks=0)
        run(tmp_path, config, items(3)[1:])  # an earlier run, and a part
        run(tmp_path, config, items(4))
        first = path.read_bytes()
        run(tmp_path, config, items(4))
        assert path.read_bytes() == first
        asked_in_vain = len(server.bodies)
        server.content = "none"
        more = [one.model_copy(update={"id": f"more/{one.id}"}) for one in items(6)[1:3]]
        run(tmp_path, config, [*items(4), *more])
    told, both = json.loads(first), read_json(path)
    sent = sum(len(str(body["messages"])) for body in server.bodies[:asked_in_vain])
    assert told["items"] == {"answered": 0, "rejected": 4}
    assert told["all"] == told["of_rejected"]
    assert (told["all"]["requests"], told["all"]["tokens_in"]) == (3, sent)  # two are equal
    paid = 2 * sent + 10 * told["all"]["tokens_out"]
    assert (told["all"]["cost"], told["currency"]) == (paid / 1e6, "USD")
    assert both["items"] == {"answered": 2, "rejected": 4}
    assert both["of_rejected"] == told["all"]
    assert both["all"]["requests"] == 5
    assert both["all"]["tokens_in"] == sum(len(str(body["messages"])) for body in server.bodies)


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


def test_a_server_may_ask_for_a_pause_by_number_or_date():
    def asked(value: str) -> float:
        return _retry_after(httpx.Response(429, headers={"Retry-After": value}))

    assert [asked(value) for value in ("7", "0.5", "-3", "inf", "nan", "soon", "")] == [
        *(7, 0.5, 0, 0, 0, 0, 0)
    ]
    assert 50 < asked(format_datetime(datetime.now(UTC) + timedelta(seconds=60))) <= 60
    assert asked("Fri, 21 Nov 2014 12:00:00 GMT") == 0


def test_pauses_double_up_to_a_cap_and_follow_from_the_question():
    one, other = (Client(section("http://localhost/v1").endpoint, seed) for seed in (1, 2))
    pauses = [one.pause("k", attempt) for attempt in range(2000)]
    assert pauses == [one.pause("k", attempt) for attempt in range(2000)]
    assert pauses[0] != other.pause("k", 0) != one.pause("l", 0)
    for attempt, pause in enumerate(pauses):
        longest = min(60, 0.01 * 2 ** min(attempt, 40))
        assert longest / 2 <= pause <= longest


@pytest.mark.parametrize(
    "endpoint", [{"retries": 1}, {"retries": 500, "total_timeout": 0.3}], ids=["count", "time"]
)
def test_an_endpoint_that_is_gone_ends_the_run_and_loses_nothing(endpoint, tmp_path):
    with LlmServer() as server:
        run(tmp_path, section(server.url), items(3))
        asked = [*items(3), *(one.model_copy(update={"id": "x", "view": "PA"}) for one in items(2))]
        asked = list({one.id: one for one in asked}.values())
        gone = LlmServer()
        gone.reply = lambda handler, _: handler.send(500, b"")
        with gone, pytest.raises(ModelError, match="1 of 4 items got no answer"):
            run(tmp_path, section(gone.url, endpoint), asked)
        summary, rows, _ = run(tmp_path, section(server.url), asked)
    assert (summary.asked, len(rows)) == (1, 4)


def test_an_endpoint_that_is_gone_is_not_waited_for_by_all(tmp_path):
    gone = LlmServer()
    gone.reply = lambda handler, _: handler.send(500, b"")
    with gone, pytest.raises(ModelError, match="60 of 60 items got no answer"):
        run(tmp_path, section(gone.url, {"retries": 0}), items(60))
    assert PATIENCE <= len(gone.bodies) < PATIENCE + 6


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
