"""What was answered is never asked for again, whenever the process ends."""

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from llm_server import LlmServer, items, section

from medtune.llm.cache import CompletionCache
from medtune.llm.client import Completion
from medtune.texts.run import run_step


def test_of_equal_questions_one_is_asked(tmp_path):
    asked = []

    async def ask() -> Completion:
        asked.append(1)
        await asyncio.sleep(0.01)
        return Completion(text="a", finish="stop")

    async def both() -> list[tuple[Completion, bool]]:
        cache = CompletionCache(tmp_path, "0000")
        return await asyncio.gather(*(cache.get("k", ask) for _ in range(5)))

    found = asyncio.run(both())
    assert sorted(cached for _, cached in found) == [False, True, True, True, True]
    assert len(asked) == 1


def test_the_cache_outlives_a_torn_line_and_is_read_by_other_shards(tmp_path):
    async def put(name: str, key: str) -> None:
        async def ask() -> Completion:
            return Completion(text=f"é {key}", finish="stop")

        await CompletionCache(tmp_path, name).get(key, ask)

    asyncio.run(put("0000", "k1"))
    with (tmp_path / "0000.jsonl").open("ab") as file:
        file.write('{"key": "k2", "reply": {"text": "h\u00e9'.encode()[:-1])
    asyncio.run(put("0000", "k3"))
    asyncio.run(put("0001", "k4"))
    cache = CompletionCache(tmp_path, "0001")
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
        # Where tests run in the background, it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
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
        whole = tmp_path / "whole"
        output, rejects = whole / "out" / "0000.parquet", whole / "rejects.parquet"
        asked = items(COUNT)
        run_step(
            section(calm.url), "conversation_grounded", asked, whole / "cache", output, rejects
        )
        questions = len(calm.bodies)
    work, told, safe = tmp_path / "killed", [], {}
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
            # Nothing that was answered and kept is asked for again.
            assert {key: server.asked[key] for key in safe} == safe
            safe = {key: server.asked[key] for key in kept(server, work)}
        last = start(server.url, work)
        said = last.communicate(timeout=60)[1]
        assert last.returncode == 0, said
        assert {key: server.asked[key] for key in safe} == safe
    assert len(safe) > 10
    assert set(server.asked) == set(calm.asked)
    # Twice at most what was under way at a kill: 6 at once, 5 kills.
    assert 0 < len(server.bodies) - questions <= 5 * 6
    for name in ("out/0000.parquet", "out/0000.account.json", "rejects.parquet"):
        assert (work / name).read_bytes() == (whole / name).read_bytes()
    if number == signal.SIGINT:
        assert [text for text in told if f"of {COUNT} items done; run it again" not in text] == []
