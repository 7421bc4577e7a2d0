"""A chat endpoint that fails in every way, on this machine: for the tests of the LLM steps.

What it does follows from the question's hash: first it may fail as a server does (no answer, 429,
500, half a response), then answer wrongly (broken JSON, a refusal, a wrong order of turns, an
invented box, words of time), then well. It counts what it was asked and what it answered.

    python tests/llm_server.py URL FOLDER ITEMS   runs a step against it, to be killed
"""

import hashlib
import json
import re
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from medtune.config.chest_llm import EndpointConfig, LlmConfig
from medtune.runtime.stopping import Stopped, install_signal_handlers
from medtune.texts.items import ConversationItem, NamedBox
from medtune.texts.run import run_step

BOX = re.compile(r"<box>\d+, \d+, \d+, \d+</box>")
REASKED = "That answer cannot be used"
TRANSPORT = ("none", "timeout", "429", "500", "half", "no json")
# Of a client that sees "timeout"; all others wait however busy the machine is.
IMPATIENT = {"request_timeout": 2.0}
CONTENT = ("none", "broken", "refusal", "order", "box", "prior")


def number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def text_of(message: dict) -> str:
    content = message["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def good(asked: str, mark: str) -> dict:
    """The right answer to the last item of a conversation, with a mark that no other has."""
    if asked.startswith("Report:\n"):
        return {"report": None if "nothing" in asked else f"Picture number {mark}."}
    if asked.startswith("Question:"):
        seen = "The right lung shows a dense area with sharp edges and no air inside. " * 3
        return {"reasoning": f"{seen} {mark}", "answer": asked.partition("True answer: ")[2]}
    boxes = BOX.findall(asked)
    answers = [f"It is here: {box}." for box in boxes] or ["There is an opacity."]
    answers += ["The image alone does not settle it."] * (5 - len(answers))
    turns = []
    for text in answers:
        turns += [{"role": "user", "text": f"What of it? {mark}"}]
        turns += [{"role": "assistant", "text": text}]
    return {"turns": turns}


def bad(answer: dict, fault: str, mark: str) -> str:
    if fault == "broken":
        return json.dumps(answer)[:-9]
    if fault == "refusal":
        return f"I am sorry, but I cannot help with that ({mark})."
    if "turns" in answer:
        if fault == "order":
            answer["turns"][2], answer["turns"][3] = answer["turns"][3], answer["turns"][2]
        if fault == "box":
            answer["turns"][1]["text"] += " <box>1, 2, 3, 4</box>"
        if fault == "prior":
            answer["turns"][1]["text"] += " It is unchanged."
    return json.dumps(answer)


class LlmServer:
    """The endpoint; use as a context manager.

    Args:
        transport: Which failure of the server comes first; None: by hash.
        content: Which wrong answer comes then; None: by hash.
        delay: Before every answer, in seconds.
    """

    def __init__(self, transport="none", content="none", delay=0.0) -> None:
        self.transport, self.content, self.delay = transport, content, delay
        self.asked, self.answered, self.marks = Counter(), Counter(), {}
        self.bodies, self.headers, self.paths, self.times = [], [], [], []
        self.now = self.most = 0  # under way at once
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if len(content) < int(self.headers["Content-Length"]):  # the client is gone
                    return
                body = json.loads(content)
                with outer.lock:
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers))
                    outer.paths.append(self.path)
                    outer.times.append(time.monotonic())
                try:
                    with suppress(BrokenPipeError, ConnectionResetError):  # the client is gone
                        outer.reply(self, body)
                finally:
                    with outer.lock:
                        outer.now -= 1

            def send(self, status: int, content: bytes, length=None, **headers: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(length or len(content)))
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.http.shutdown()
        self.http.server_close()

    def reply(self, handler, body: dict) -> None:
        key = hashlib.sha256(
            json.dumps([body["messages"], body["seed"]], sort_keys=True).encode()
        ).hexdigest()[:16]
        with self.lock:
            first, self.asked[key] = self.asked[key] == 0, self.asked[key] + 1
        time.sleep(self.delay)
        failure = self.transport or TRANSPORT[number(f"t{key}") % len(TRANSPORT)]
        if first and failure != "none":
            self.fail(handler, failure)
            return
        users = [text_of(one) for one in body["messages"] if one["role"] == "user"]
        again = users[-1].startswith(REASKED)
        asked = users[-2] if again else users[-1]
        answer = good(asked, key)
        fault = self.content or CONTENT[number(f"c{asked}") % len(CONTENT)]
        text = json.dumps(answer) if again or fault == "none" else bad(answer, fault, key)
        message = {"role": "assistant", "content": text}
        reply = {
            "choices": [{"message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": len(str(body["messages"])), "completion_tokens": len(text)},
        }
        with self.lock:
            self.answered[key] += 1
            self.marks[text] = key
        handler.send(200, json.dumps(reply).encode())

    def fail(self, handler, failure: str) -> None:
        if failure == "timeout":
            time.sleep(IMPATIENT["request_timeout"] + 0.5)
            handler.close_connection = True
        elif failure == "429":
            handler.send(429, b"{}", Retry_After="0.2")
        elif failure == "half":
            handler.send(200, b'{"choices": [{"mess', length=500)
            handler.close_connection = True
        elif failure == "no json":
            handler.send(200, b"<html>gateway</html>")
        else:
            handler.send(int(failure), handler.headers.get("Authorization", "").encode())


def section(url: str, endpoint: dict | None = None, **changes) -> LlmConfig:
    """A configuration for the server above."""
    fast = {"request_timeout": 60, "backoff_seconds": 0.01, "concurrency": 6}
    place = EndpointConfig(base_url=url, **(fast | (endpoint or {})))
    return LlmConfig(model="m", endpoint=place, **changes)


def items(count: int) -> list[ConversationItem]:
    """Grounded items, the last one equal to the first but for its id."""
    made = [
        ConversationItem(
            id=f"made/{n:03d}",
            source="made",
            report=f"Opacity number {n % (count - 1)}.",
            regions=(NamedBox(name="opacity", box=(n % (count - 1), 10, 99, 90.4)),),
        )
        for n in range(count)
    ]
    return made[::-1]


def main(url: str, folder: str, count: str) -> None:
    install_signal_handlers()
    work = Path(folder)
    cache, output = work / "cache", work / "out" / "0000.parquet"
    asked = items(int(count))
    try:
        run_step(
            section(url), "conversation_grounded", asked, cache, output, work / "rejects.parquet"
        )
    except Stopped as stopped:
        sys.exit(128 + stopped.args[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
