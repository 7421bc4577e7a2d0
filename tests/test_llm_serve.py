"""A local server is started, awaited within a bound, and stopped whatever happens."""

import sys
import time
from pathlib import Path

import psutil
import pytest

from medtune.config.chest_llm import EndpointConfig, LlmConfig, ServeConfig
from medtune.llm import serve
from medtune.llm.serve import served
from medtune.runtime.errors import ConfigError, ModelError

# Answers /health with a status, and has a child of its own, as vLLM has.
FAKE = """
import subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
child = subprocess.Popen(["sleep", "60"])
print(child.pid, *sys.argv[1:], flush=True)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response({status} if self.path == "/health" else 404)
        self.end_headers()
port = int([word for word in sys.argv if word.startswith("--port=")][0].partition("=")[2])
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def config(**changes) -> LlmConfig:
    place = EndpointConfig(serve=ServeConfig(path="m", arguments=["--x=1"], **changes))
    return LlmConfig(model="name", endpoint=place, images="file")


@pytest.fixture
def fake(monkeypatch):
    """Start a program in the place of vLLM."""
    command = serve.vllm_command

    def put(program: str) -> None:
        def other(*arguments) -> list[str]:
            return [sys.executable, "-c", program, *command(*arguments)[3:]]

        monkeypatch.setattr(serve, "vllm_command", other)
        monkeypatch.setattr(serve, "find_spec", lambda _: True)

    return put


def is_alive(log: Path, seconds: float = 0) -> bool:
    """Whether the child of a fake server lives, and does not end within a time."""
    try:
        child = psutil.Process(int(log.read_text().split()[0]))
        end = time.monotonic() + seconds
        while child.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() >= end:
                return True
            time.sleep(0.05)
    except psutil.NoSuchProcess:
        pass
    return False


@pytest.mark.parametrize("fails", [False, True])
def test_a_server_and_its_children_end_with_the_step(fake, fails, tmp_path):
    fake(FAKE.format(status=200))
    log = tmp_path / "logs" / "vllm.log"

    def use() -> None:
        with served(config(), log, media=tmp_path) as section:
            assert section.endpoint.base_url.startswith("http://127.0.0.1:")
            assert section.endpoint.base_url.endswith("/v1")
            assert is_alive(log)
            if fails:
                raise KeyError("of the step")

    if fails:
        with pytest.raises(KeyError):
            use()
    else:
        use()
    assert not is_alive(log, seconds=10)
    given = log.read_text().split("\n")[0].split()[1:]
    assert {"--model=m", "--served-model-name=name", "--x=1", "--host=127.0.0.1"} <= {*given}
    assert f"--allowed-local-media-path={tmp_path}" in given


def test_a_server_that_is_never_healthy_is_waited_for_within_a_bound(fake, tmp_path):
    fake(FAKE.format(status=503))
    log = tmp_path / "vllm.log"
    with (
        pytest.raises(ModelError, match="not healthy after 2 s"),
        served(config(startup_timeout=2), log),
    ):
        pass
    assert not is_alive(log, seconds=10)


def test_a_server_that_ends_is_an_error_that_names_its_log(fake, tmp_path):
    fake("raise SystemExit(3)")
    log = tmp_path / "vllm.log"
    with pytest.raises(ModelError, match=r"ended with 3[\s\S]*vllm.log"), served(config(), log):
        pass


def test_without_vllm_no_server_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="not installed"), served(config(), tmp_path / "log"):
        pass


def test_an_endpoint_that_runs_already_is_left_alone(tmp_path):
    place = EndpointConfig(base_url="http://localhost:1/v1")
    running = LlmConfig(model="m", endpoint=place)
    with served(running, tmp_path / "log") as section:
        assert section is running
