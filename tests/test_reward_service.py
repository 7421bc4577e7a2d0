"""The reward service: a real process, and one that does everything wrong."""

import asyncio
import socket
import subprocess
import sys
import textwrap
import threading
import time

import httpx
import pytest
import yaml
from conftest import REPOSITORY
from test_chest_rewards import CLASSES, ILL, REPORT, text
from test_llm_guard import resolve_to
from test_scores_models import write_bertscore

from medtune.config.chest_scores import ChestScoresConfig, RewardServiceConfig
from medtune.config.data import TaskConfig
from medtune.config.evaluation import ScoringConfig
from medtune.config.experiment import parse_config
from medtune.config.stages import RewardServiceStage
from medtune.config.training import RewardConfig
from medtune.metrics.bertscore import BertScore
from medtune.rewards import service
from medtune.rewards.base import Judged, RewardError, score_all
from medtune.rewards.service_client import Service, ServiceError, served_term
from medtune.rewards.serving import run_service
from medtune.runtime.errors import ConfigError
from medtune.tasks import get_task, get_terms

# Starts the service as its users do; `load` and the scorer are made up.
PROGRAM = """
import os, sys, time
from medtune.rewards.service import RewardServer, serve

calls = 0

{body}

server = RewardServer("127.0.0.1", 0, "bertscore")
print(server.server_address[1], flush=True)
serve(server, load)
"""
GOOD = """
def load():
    time.sleep(float(os.environ.get("LOADING", "0")))
    return lambda pairs: [len(a) / (len(a) + len(b)) for a, b in pairs]
"""


@pytest.fixture
def start(monkeypatch):
    """Return a function that starts a service in a process, and its URL."""
    running = []

    def begin(body: str = GOOD, loading: float = 0) -> str:
        monkeypatch.setenv("LOADING", str(loading))
        program = PROGRAM.format(body=textwrap.dedent(body))
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        return f"http://127.0.0.1:{process.stdout.readline().strip()}"

    begin.running = running
    yield begin
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def config(url: str, **changed) -> RewardServiceConfig:
    own = {
        "metric": "bertscore",
        "wait_seconds": 20,
        "timeout_seconds": 5,
        "attempts": 3,
        "batch_size": 2,
    }
    return RewardServiceConfig(url=url, **own | changed)


def ask(settings: RewardServiceConfig, count: int = 3) -> list[float]:
    pairs = [("a" * n, "b") for n in range(1, count + 1)]
    return asyncio.run(Service(settings).scores(pairs, about(*range(count))))


def about(*names, source: str = "s"):
    """Samples with names of their own."""
    return [ILL.model_copy(update={"id": f"{source}/{name}/t", "source": source}) for name in names]


def test_scores_come_back_in_order(start):
    url = start()
    assert ask(config(url), 7) == pytest.approx([n / (n + 1) for n in range(1, 8)])
    assert httpx.get(f"{url}/health").json() == {"ready": True, "metric": "bertscore"}
    for body in (b"no", b"{}", b'{"pairs": [["a"]]}', b'{"pairs": [["a", 1]]}'):
        assert httpx.post(f"{url}/score", content=body).status_code == 400
    assert httpx.get(f"{url}/other").status_code == 404


def test_it_is_ready_only_when_the_model_is_loaded(start):
    url = start(loading=3)
    assert httpx.get(f"{url}/health").status_code == 503
    assert httpx.post(f"{url}/score", json={"pairs": []}).status_code == 503
    with pytest.raises(ServiceError, match=r"not ready after 0.5 s \(status 503\)"):
        ask(config(url, wait_seconds=0.5))
    assert len(ask(config(url))) == 3  # waits


def test_a_model_that_cannot_be_loaded_ends_it(start):
    start("def load(): raise OSError('no weights')")
    assert start.running[0].wait(20) != 0


def test_no_service_and_another_service(start):
    with pytest.raises(ServiceError, match=r"not ready after 0.3 s \(ConnectError\)"):
        ask(config("http://127.0.0.1:9", wait_seconds=0.3))
    other = Service(config(start(), metric="radgraph"))
    with pytest.raises(ServiceError, match="scores 'bertscore', not 'radgraph'"):
        asyncio.run(other.scores([("a", "b")], about(1)))


WRONG = {
    "fails": (
        "def load():\n    return lambda pairs: 1 / 0",
        r"status 500: .*ZeroDivisionError.*, for s/0/t and 1 more",
    ),
    "short list": (
        "def load():\n    return lambda pairs: [0.5]",
        r"returned 1 scores for 2 pairs, for s/0/t and 1 more",
    ),
    "no list": ("def load():\n    return lambda pairs: 0.5", "returned no list of scores"),
    "a word": (
        "def load():\n    return lambda p: [0.5, 'x']",
        "returned 'x' .*, for s/1/t",
    ),
    "nothing": ("def load():\n    return lambda p: [None, 1]", "returned None .*, for s/0/t"),
    "true": ("def load():\n    return lambda p: [True, 1]", "returned True .*, for s/0/t"),
    "nan of another server": (
        "import json\nold = json.dumps\njson.dumps = lambda content, allow_nan: old(content)\n"
        "def load():\n    return lambda p: [float('nan')] * len(p)",
        "returned nan as a score, for s/0/t",
    ),
    "nan": ("def load():\n    return lambda p: [0.5, float('nan')]", "status 500: .*ValueError"),
    "slow": ("def load():\n    return lambda p: time.sleep(60)", r"failed \(ReadTimeout\)"),
    "dies": ("def load():\n    return lambda p: os._exit(1)", r"failed \((Remote|Connect|Read)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_goes_wrong_stops_and_names_the_sample(start, name):
    body, said = WRONG[name]
    begun = time.monotonic()
    with pytest.raises(ServiceError, match=said):
        ask(config(start(body), attempts=2, timeout_seconds=1))
    assert time.monotonic() - begun < 20


def test_what_passes_is_asked_again(start):
    body = """
    def load():
        def score(pairs):
            global calls
            calls += 1
            if calls % 3:
                raise OSError("busy")
            return [1.0] * len(pairs)
        return score
    """
    assert ask(config(start(body)), 4) == [1.0] * 4
    with pytest.raises(ServiceError, match="busy"):
        ask(config(start(body), attempts=2), 4)


def judged(case, said):
    return Judged("-", said, None, case)


def test_a_served_term_is_a_part_of_the_reward(start):
    term = served_term(config(start(), batch_size=64))
    rows = [judged(ILL, text(REPORT)), judged(ILL, None), judged(ILL, text("Effusion."))]
    length = len(REPORT)
    results = score_all([term], rows)
    assert [total for total, _ in results] == pytest.approx([0.5, 0, 9 / (9 + length)])
    mixed = score_all([term], [judged(ILL, text(REPORT))] * 2)
    assert mixed[0][0] == pytest.approx(0.5)  # the same event loop serves all steps
    assert not term.concerns(CLASSES)
    padded = judged(ILL, text(" ".join(f"w{n}" for n in range(400))))
    assert score_all([term], [padded])[0][0] == 0  # the guard


def terms_with(url: str, weights: dict[str, float] | None = None):
    """The terms of an experiment with a service."""
    reward = RewardConfig(service=config(url, batch_size=64), weights=weights or {})
    return get_terms(get_task(TaskConfig(name="chest_xray")), reward)


def test_a_configured_service_is_a_term_beside_the_others(start):
    reward = RewardConfig(service=config(start(), batch_size=64))
    terms = terms_with(reward.service.url)
    assert [term.name for term in terms].count("bertscore") == 1
    [(total, parts), (nothing, _)] = score_all(
        terms, [judged(ILL, text(REPORT)), judged(ILL, None)]
    )
    assert parts["bertscore"] == pytest.approx(0.5)
    assert nothing == 0
    weights = {"format": 0.1, "gleu": 0.45, "labels": 0.45, "bertscore": 0.45}
    expected = sum(weight * parts[name] for name, weight in weights.items())
    assert total == pytest.approx(expected / sum(weights.values()))
    alone = terms_with(reward.service.url, {"bertscore": 0.0})
    assert score_all(alone, [judged(ILL, text(REPORT))])[0][0] == pytest.approx(1)
    without = get_terms(get_task(TaskConfig(name="chest_xray")), RewardConfig())
    assert "bertscore" not in [term.name for term in without]


def test_a_model_that_overlooks_a_negation_cannot_pay_for_it(start):
    """As BERTScore does: 0.893 for a denied effusion where there is one."""
    terms = terms_with(start("def load(): return lambda pairs: [0.893] * len(pairs)"))
    said = [REPORT, *(REPORT.replace("There is a ", f"There is {word} ") for word in ("one", "no"))]
    [right, reworded, flipped] = score_all(terms, [judged(ILL, text(one)) for one in said])
    assert {parts["bertscore"] for _, parts in (right, reworded, flipped)} == {0.893}
    assert right[0] > reworded[0]
    assert right[0] - flipped[0] > 2 * (right[0] - reworded[0])


def test_the_verb_serves_the_model_of_the_configuration(tmp_path):
    write_bertscore(tmp_path / "bertscore")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{found.getsockname()[1]}"
    settings = config(url, wait_seconds=120, batch_size=64)
    stage = RewardServiceStage(
        reward=RewardConfig(service=settings),
        evaluation=ScoringConfig(scores=ChestScoresConfig(models=str(tmp_path))),
    )
    verb = ["reward-service", "--config", stage.model_dump_json()]
    process = subprocess.Popen([sys.executable, "-m", "medtune", *verb])
    try:
        pairs = [("lungs are clear", "lungs are clear"), ("heart is enlarged", "normal heart .")]
        found = asyncio.run(Service(settings).scores(pairs, about(1, 2)))
    finally:
        process.kill()
        process.wait()
    assert found == pytest.approx(BertScore(tmp_path / "bertscore").f1(pairs), abs=1e-5)
    with pytest.raises(ConfigError, match=r"reward\.service: is null"):
        run_service(stage.model_copy(update={"reward": RewardConfig()}), None)


def test_a_service_that_fails_stops_the_run(start):
    term = served_term(config(start(WRONG["fails"][0]), attempts=1))
    with pytest.raises(RewardError, match=r"ServiceError: .*for s/i/report_generation"):
        score_all([term], [judged(ILL, text(REPORT))])


@pytest.fixture
def posted():
    """A service in this process: its URL, and the pairs of every request that reached it."""
    got = []
    server = service.RewardServer("127.0.0.1", 0, "bertscore")

    def scorer(pairs):
        got.append(list(pairs))
        return [len(a) / (len(a) + len(b)) for a, b in pairs]

    server.scorer = scorer
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", got
    server.shutdown()
    server.server_close()


def test_of_equal_pairs_one_is_sent(posted):
    url, got = posted
    pairs = [("aa", "b"), ("a", "b"), ("aa", "b"), ("a", "b"), ("aaa", "b"), ("aa", "b")]
    asked = Service(config(url))
    for _ in range(2):  # nothing is kept for the next call, of which a resumed run knows nothing
        found = asyncio.run(asked.scores(pairs, about(*range(6))))
        assert found == pytest.approx([2 / 3, 1 / 2, 2 / 3, 1 / 2, 3 / 4, 2 / 3])
    assert got == [[("aa", "b"), ("a", "b")], [("aaa", "b")]] * 2


def test_a_failure_names_the_first_of_equal_pairs(start):
    body = "def load():\n    return lambda pairs: ['x' if a == 'aa' else 1.0 for a, _ in pairs]"
    pairs = [("a", "b"), ("a", "b"), ("aa", "b"), ("aa", "b")]
    with pytest.raises(ServiceError, match="returned 'x' as a score, for s/2/t"):
        asyncio.run(Service(config(start(body))).scores(pairs, about(*range(4))))


@pytest.mark.parametrize("permitted", [[], ["other"], ["open"]])
def test_nothing_of_a_source_that_is_not_named_leaves_this_machine(posted, permitted, monkeypatch):
    url, got = posted

    async def elsewhere(_):
        return None

    monkeypatch.setattr("medtune.rewards.service_client.local_address", elsewhere)
    sent = []
    monkeypatch.setattr("httpx.AsyncClient.send", lambda *_, **__: sent.append(1))
    both = about(1, source="open") + about(2, source="made")
    asked = Service(config(url, allow_remote=permitted))
    with pytest.raises(ConfigError, match=r"reward\.service\.allow_remote: .*'(made|open)' would"):
        asyncio.run(asked.scores([("a", "b"), ("aa", "b")], both))
    term = served_term(config(url, allow_remote=permitted))
    with pytest.raises(RewardError, match=r"'s' would leave this machine for 127\.0\.0\.1"):
        score_all([term], [judged(ILL, text(REPORT))])
    assert (sent, got) == ([], [])


def test_a_source_that_is_named_may_go(posted, monkeypatch):
    url, got = posted

    async def elsewhere(_):
        return None

    monkeypatch.setattr("medtune.rewards.service_client.local_address", elsewhere)
    asked = Service(config(url, allow_remote=["open"]))
    pair = [("a", "b")]
    assert asyncio.run(asked.scores(pair, about(1, source="open"))) == [0.5]
    with pytest.raises(ConfigError, match="'made' would leave"):  # nor when it is known as ready
        asyncio.run(asked.scores(pair, about(1, source="made")))
    assert got == [pair]


def test_the_address_that_was_found_local_is_the_one_that_is_used(posted, monkeypatch):
    """A name that is local when it is checked, and not when it is used."""
    url, got = posted
    resolve_to(monkeypatch, "203.0.113.7")
    asked = Service(config(url.replace("127.0.0.1", "rebind.test"), wait_seconds=0.3))
    with pytest.raises(ConfigError, match=r"leave this machine for rebind\.test"):
        asyncio.run(asked.scores([("a", "b")], about(1)))
    calls = []

    def rebinding(host, port, *rest, **more):
        calls.append(host)
        address = "127.0.0.1" if len(calls) == 1 or host == "127.0.0.1" else "203.0.113.7"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert asyncio.run(asked.scores([("a", "b")], about(1))) == [0.5]
    assert calls.count("rebind.test") == 1
    assert got == [[("a", "b")]]


def test_a_source_that_is_named_must_be_there():
    values = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text())
    own = {"metric": "bertscore", "allow_remote": ["nowhere"]}
    values["reward"]["service"] = own
    with pytest.raises(ConfigError, match=r"reward\.service\.allow_remote`: names \['nowhere'\]"):
        parse_config(values)
    values["reward"]["service"] = own | {"allow_remote": [values["sources"][0]["name"]]}
    parse_config(values)
    values["reward"]["service"] = {"metric": "bertscore", "remote": True}
    with pytest.raises(ConfigError, match=r"`reward\.service\.remote`: unknown key"):
        parse_config(values)
