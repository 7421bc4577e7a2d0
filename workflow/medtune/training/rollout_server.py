"""Rollouts by a vLLM in a process of its own, on other GPUs: server and client.

    medtune rollout-server --config C --start sft --dataset datasets --port 8000

They speak JSON over HTTP. Media and weights are not sent, but named by path: learner and server
share a file system. Both must find the same secret in the environment, since the server reads
files that a request names.
"""

import hmac
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch

from medtune.models.inputs import Encoded, encode_media
from medtune.models.loading import load_processor
from medtune.orchestration.launch import SECRET
from medtune.records.sample import Media, Turn
from medtune.runtime.console import RANK, log
from medtune.runtime.errors import ConfigError, ModelError
from medtune.training.distributed import all_gather_object, broadcast_from_rank0
from medtune.training.engine import EngineSettings, Rollout, VllmEngine

HOURS = 3600


def secret() -> str:
    """Return the secret that learner and server share.

    Raises:
        ConfigError: It is not set.
    """
    value = os.environ.get(SECRET, "")
    if not value:
        raise ConfigError(
            SECRET, "is not set", f"export the same random {SECRET} for learner and server"
        )
    return value


def stored_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and value of the weights of a folder of safetensors."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                yield name, file.get_tensor(name)


class Replies:
    """What the server answers to.

    Args:
        engine: Makes the rollouts.
        folder: Model folder that the engine was started with; its processor encodes the prompts.
    """

    def __init__(self, engine: VllmEngine, folder: Path) -> None:
        self.engine, self.processor = engine, load_processor(folder)

    def info(self, _: dict[str, Any]) -> dict[str, Any]:
        """Return what the engine was started with."""
        return asdict(self.engine.settings)

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take over the weights of a folder."""
        # Not by vLLM's own loading from a folder: it would look for its processor there too.
        self.engine.load(stored_weights(Path(request["folder"])))
        return {}

    def generate(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return answers; `rows` says which of the prompts each answers."""
        prompts = [self._encoded(one) for one in request["prompts"]]
        asked = [prompts[row] for row in request["rows"]]
        return {"rollouts": self.engine.generate(asked, request["seeds"])}

    def most_likely(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the most likely answer to one prompt."""
        encoded = self._encoded(request["prompt"])
        return {"rollouts": [self.engine.most_likely(encoded, request["tokens"])]}

    def _encoded(self, prompt: dict[str, Any]) -> Encoded:
        media = Media.model_validate(prompt["media"])
        turns = [Turn.model_validate(one) for one in prompt["turns"]]
        return encode_media(self.processor, prompt["prompt"], media, Path(prompt["root"]), turns)


def make_server(replies: Replies, host: str, port: int) -> HTTPServer:
    """Return a server that answers one request after another; port 0: a free one."""
    key = secret()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Answer a request: its path names a method of `Replies`."""
            given = self.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
                self._send(401, {"error": f"wrong {SECRET}"})
                return
            body = self.rfile.read(int(self.headers["Content-Length"]))
            name = self.path.strip("/")
            if name not in ("info", "load", "generate", "most_likely"):
                self._send(404, {"error": f"there is no {name}"})
                return
            try:
                self._send(200, getattr(replies, name)(json.loads(body)))
            except Exception as error:  # noqa: BLE001 - the learner must learn of it, whatever it is, and stops
                log(f"error: {error}")
                self._send(500, {"error": f"{type(error).__name__}: {error}"})

        def _send(self, status: int, reply: dict[str, Any]) -> None:
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Write no line for every request."""

    return HTTPServer((host, port), Handler)


class RemoteEngine:
    """The engine of a rollout server, with the same methods; the first process speaks to it.

    Args:
        url: Of the server.
        settings: What the learner expects of it.
        exchange: Folder for weights, which the server sees under the same path.

    Raises:
        ConfigError: The server cannot be reached, or was started with another configuration.
    """

    def __init__(self, url: str, settings: EngineSettings, exchange: Path) -> None:
        self.url, self.settings, self.exchange = url.rstrip("/"), settings, exchange
        found = broadcast_from_rank0(lambda: self._ask("info", {}))
        expected = json.loads(json.dumps(asdict(settings)))
        if found != expected:
            raise ConfigError(
                "grpo.rollouts.server", f"runs with {found}, expected {expected}", "start it anew"
            )

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Write weights to the exchange folder and let the server take them over."""
        from huggingface_hub import save_torch_state_dict

        kept = {}
        for name, value in weights:  # shards are gathered: every process must iterate
            if RANK == 0:
                kept[name] = value.cpu().contiguous().clone()

        def hand_over() -> None:
            shutil.rmtree(self.exchange, ignore_errors=True)
            self.exchange.mkdir(parents=True)
            save_torch_state_dict(kept, self.exchange)
            self._ask("load", {"folder": str(self.exchange.resolve())})
            shutil.rmtree(self.exchange)

        broadcast_from_rank0(hand_over)

    def generate(self, asked: Sequence[Encoded], seeds: Sequence[int | None]) -> list[Rollout]:
        """Return a sampled answer to each prompt; see `VllmEngine.generate`."""
        named: dict[str, dict[str, Any]] = {}
        for one in asked:
            named.setdefault(_name(one), _prompt(one))
        mine = {"prompts": list(named.values()), "seeds": list(seeds)}
        order = list(named)
        mine["rows"] = [order.index(_name(one)) for one in asked]
        return self._ask_for_all("generate", mine)

    def most_likely(self, asked: Encoded, tokens: int) -> Rollout:
        """Return the most likely answer; see `VllmEngine.most_likely`."""
        request = {"prompt": _prompt(asked), "tokens": tokens}
        return self._ask_for_all("most_likely", request)[0]

    def _ask_for_all(self, name: str, request: dict[str, Any]) -> list[Rollout]:
        """Return the server's answers to this process; the first asks for every one."""
        requests = all_gather_object(request)
        replies = broadcast_from_rank0(lambda: [self._ask(name, one) for one in requests])
        return [Rollout(*one) for one in replies[RANK]["rollouts"]]

    def _ask(self, name: str, request: dict[str, Any]) -> Any:
        """Return the server's answer.

        Raises:
            ConfigError: It cannot be reached.
            ModelError: It failed.
        """
        headers = {"Authorization": f"Bearer {secret()}"}
        body = json.dumps(request).encode()
        try:
            with urlopen(Request(f"{self.url}/{name}", body, headers), timeout=6 * HOURS) as reply:  # noqa: S310
                return json.load(reply)
        except HTTPError as error:
            raise ModelError(self.url, json.load(error)["error"], "see its log") from None
        except URLError as error:
            raise ConfigError(
                "grpo.rollouts.server",
                f"{self.url} cannot be reached ({error.reason})",
                "start it with `medtune rollout-server`",
            ) from None


def _name(encoded: Encoded) -> str:
    shown = encoded.source
    return f"{shown.media.sha256}/{shown.text}"


def _prompt(encoded: Encoded) -> dict[str, Any]:
    """Return a prompt as JSON values."""
    shown = encoded.source
    root = str(shown.root.resolve())
    turns = [turn.model_dump() for turn in shown.turns]
    media = shown.media.model_dump()
    return {"prompt": shown.prompt, "turns": turns, "media": media, "root": root}


def serve(engine: VllmEngine, folder: Path, host: str, port: int) -> None:
    """Answer requests until the process is stopped."""
    server = make_server(Replies(engine, folder), host, port)
    log(f"rollout server: http://{host}:{server.server_port}")
    with server:
        server.serve_forever()
