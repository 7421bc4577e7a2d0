"""A service that scores texts with a model of its own, in a process of its own.

    GET  /health   200 {"ready": true, "metric": name} once the model is loaded, until then 503
    POST /score    {"pairs": [[text, reference], ...]} -> {"scores": [number, ...]}, one per pair

One request is scored at a time; others wait. What is wrong is answered with a status and
{"error": words}: 400 the request, 503 the model is not loaded yet, 500 the scorer failed. The texts
of reports go over the wire as they are: let it listen where only the training can reach it.
"""

import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from medtune.runtime.console import log

Pair = tuple[str, str]  # text, reference
Scorer = Callable[[Sequence[Pair]], list[float]]


class RewardServer(ThreadingHTTPServer):
    """The service; `scorer` is None until the model is loaded.

    Args:
        host: The address to listen at.
        port: The port; 0 chooses a free one.
        metric: What is scored.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, metric: str) -> None:
        super().__init__((host, port), _Handler)
        self.metric = metric
        self.scorer: Scorer | None = None
        self._one_at_a_time = threading.Lock()

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """Return the scores of pairs; the model must be loaded."""
        assert self.scorer is not None
        with self._one_at_a_time:
            return self.scorer(pairs)


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer

    def do_GET(self) -> None:
        """Answer whether the model is loaded."""
        if self.path != "/health":
            self._send(404, {"error": f"there is no {self.path}"})
            return
        ready = self.server.scorer is not None
        self._send(200 if ready else 503, {"ready": ready, "metric": self.server.metric})

    def do_POST(self) -> None:
        """Score pairs."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/score":
            self._send(404, {"error": f"there is no {self.path}"})
            return
        if self.server.scorer is None:
            self._send(503, {"error": "the model is not loaded yet"})
            return
        try:
            pairs = _pairs(body)
        except ValueError as error:
            self._send(400, {"error": str(error)})
            return
        try:
            self._send(200, {"scores": self.server.score(pairs)})
        except Exception as error:  # noqa: BLE001 - the client stops the run and says this
            self._send(500, {"error": f"{type(error).__name__}: {error}"})

    def _send(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing of single requests."""


def _pairs(body: bytes) -> list[Pair]:
    """Return the pairs of a request.

    Raises:
        ValueError: It holds none.
    """
    content = json.loads(body)
    pairs = content.get("pairs") if isinstance(content, dict) else None
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise ValueError('expected {"pairs": [[text, reference], ...]}')
    return [(text, reference) for text, reference in pairs]


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair)


def serve(server: RewardServer, load: Callable[[], Scorer]) -> None:
    """Load the model while `/health` already answers, then score until the process ends.

    Args:
        server: The service, which listens already.
        load: Returns the scorer. What it raises ends the service.
    """
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        server.scorer = load()
        log(f"{server.metric} is served at {server.server_address}")
        threading.Event().wait()
    finally:
        server.shutdown()
        server.server_close()
