"""Client of a chat endpoint that speaks OpenAI's protocol: bounded, patient, and discreet."""

import asyncio
import hashlib
import json
import math
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import BaseModel, ConfigDict

from medtune.config.chest_llm import EndpointConfig
from medtune.llm.guard import check_permitted, local_address
from medtune.runtime.errors import ConfigError

RETRIED = (408, 409, 425, 429)  # and all from 500
OF_THE_QUESTION = (400, 413, 422)


class Completion(BaseModel):
    """An answer.

    Attributes:
        text: What was answered; empty if nothing was.
        finish: Why it ended: stop, length, content_filter, ...
        refusal: The endpoint's or the model's words where it refused.
        tokens_in: Tokens of the question; None if the endpoint does not say.
        tokens_out: Tokens of the answer; the same.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    finish: str
    refusal: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None


class QuestionError(Exception):
    """The endpoint cannot answer this question, e.g. because it is too long."""


class UnansweredError(Exception):
    """No answer came within the configured time and requests."""


class _FailedError(Exception):
    """A request failed in a way that the next one may not; `after`: the server's wish, in s."""

    def __init__(self, what: str, after: float = 0.0) -> None:
        super().__init__(what)
        self.after = after


class Client:
    """Asks an endpoint; use as an asynchronous context manager.

    Args:
        endpoint: The configuration, with a `base_url`.
        seed: Decides, with the question, how pauses vary.

    Raises:
        ConfigError: The variable that should hold the key is not set.
    """

    def __init__(self, endpoint: EndpointConfig, seed: int) -> None:
        self.endpoint, self.seed = endpoint, seed
        base = (endpoint.base_url or "").rstrip("/")
        if endpoint.kind == "azure":
            base += f"/openai/deployments/{endpoint.deployment}"
        url = httpx.URL(f"{base}/chat/completions")
        version = {"api-version": endpoint.api_version} if endpoint.kind == "azure" else {}
        self.url = url.copy_merge_params(version)
        self._key = _key(endpoint)
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._next = 0.0  # when the next request may start, on the monotonic clock
        # Proxies of the environment are for the world outside only. httpx's time-out is for each
        # wait for bytes; `_send` has one for all of them.
        seconds = endpoint.request_timeout
        self._direct = httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=seconds)
        self._outside = httpx.AsyncClient(follow_redirects=False, timeout=seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._direct.aclose()
        await self._outside.aclose()

    async def ask(self, source: str, key: str, body: dict[str, Any]) -> Completion:
        """Return the answer to a question.

        Args:
            source: Whose data it holds.
            key: Of the question; its pauses vary by it.
            body: The request.

        Raises:
            ConfigError: The data may not go there, or the endpoint refuses this client.
            QuestionError: The endpoint refuses this question.
            UnansweredError: See there.
        """
        async with self._slots:
            try:
                async with asyncio.timeout(self.endpoint.total_timeout):
                    return await self._persist(source, key, body)
            except TimeoutError:
                seconds = self.endpoint.total_timeout
                raise UnansweredError(f"no answer in {seconds:g} s") from None

    async def _persist(self, source: str, key: str, body: dict[str, Any]) -> Completion:
        """Ask until there is an answer, or no request is left."""
        for attempt in range(self.endpoint.retries + 1):
            await self._turn()
            try:
                return self._read(await self._send(source, body))
            except _FailedError as error:
                last = error
                if last.after:  # holds for all requests
                    longest = min(last.after, self.endpoint.total_timeout)
                    self._next = max(self._next, time.monotonic() + longest)
                if attempt < self.endpoint.retries:
                    await asyncio.sleep(self.pause(key, attempt))
        raise UnansweredError(str(last))

    def pause(self, key: str, attempt: int) -> float:
        """Return the pause after a failed request in seconds: it doubles up to the cap.

        Between half of it and all, by the hash of seed, question and attempt.
        """
        longest = self.endpoint.backoff_seconds * 2.0 ** min(attempt, 60)
        text = f"{self.seed}/{key}/{attempt}".encode()
        part = int.from_bytes(hashlib.sha256(text).digest()[:4]) / 2**32
        return min(self.endpoint.backoff_cap_seconds, longest) * (0.5 + 0.5 * part)

    async def _turn(self) -> None:
        """Wait until one more request may start."""
        rate, now = self.endpoint.requests_per_minute, time.monotonic()
        start = max(now, self._next)
        self._next = start + (60 / rate if rate else 0.0)
        await asyncio.sleep(start - now)

    async def _send(self, source: str, body: dict[str, Any]) -> httpx.Response:
        """Send a request: the only place of this package that does.

        Raises:
            ConfigError: The data may not go there.
            _FailedError: Nothing came back.
        """
        address = await local_address(self.url)
        client, url, headers, extensions = self._outside, self.url, self._headers(), {}
        if address is None:
            check_permitted(source, url, self.endpoint.allow_remote)
        else:
            client, url = self._direct, url.copy_with(host=address)
            headers["Host"] = self.url.netloc.decode()
            extensions = {"sni_hostname": self.url.host}
        try:
            async with asyncio.timeout(self.endpoint.request_timeout):
                return await client.post(url, json=body, headers=headers, extensions=extensions)
        except TimeoutError:
            seconds = self.endpoint.request_timeout
            raise _FailedError(f"no answer to a request in {seconds:g} s") from None
        except httpx.HTTPError as error:
            raise _FailedError(type(error).__name__) from None

    def _headers(self) -> dict[str, str]:
        if self._key is None:
            return {}
        if self.endpoint.kind == "azure":
            return {"api-key": self._key}
        return {"Authorization": f"Bearer {self._key}"}

    def _clean(self, text: str) -> str:
        """Return a text of the server's without the key, should it hold it."""
        return text.replace(self._key, "***") if self._key else text

    def _read(self, response: httpx.Response) -> Completion:
        """Return the answer that a response holds.

        Raises:
            ConfigError: The endpoint refuses this client: nothing will be answered.
            QuestionError: It refuses this question.
            _FailedError: It failed.
        """
        status, text = response.status_code, self._clean(response.text)
        if status in RETRIED or status >= 500:
            raise _FailedError(f"status {status}", _retry_after(response))
        if status in OF_THE_QUESTION:
            if "content_filter" in text:
                return Completion(text="", finish="content_filter", refusal=text)
            raise QuestionError(f"status {status}: {text}")
        if status != 200:
            raise ConfigError(
                self.url.host,
                f"answers with status {status} to {self.url.path}",
                "check `endpoint` and its key; redirects are not followed",
            )
        try:
            return _parsed(text)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise _FailedError("a response that is no chat completion") from None


def _key(endpoint: EndpointConfig) -> str | None:
    if endpoint.key_env is None:
        return None
    key = os.environ.get(endpoint.key_env, "").strip()
    if not key:
        raise ConfigError("endpoint.key_env", f"{endpoint.key_env} is not set", "export the key")
    return key


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds that a server asks to wait, by number or date (RFC 9110, 10.2.3), or 0."""
    asked = response.headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(asked)) if math.isfinite(float(asked)) else 0.0
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    return 0.0


def _parsed(text: str) -> Completion:
    """Return the answer in a chat completion."""
    values = json.loads(text)
    choice, usage = values["choices"][0], values.get("usage") or {}
    message = choice["message"]
    return Completion(
        text=message.get("content") or "",
        finish=choice.get("finish_reason") or "stop",
        refusal=message.get("refusal"),
        tokens_in=usage.get("prompt_tokens"),
        tokens_out=usage.get("completion_tokens"),
    )
