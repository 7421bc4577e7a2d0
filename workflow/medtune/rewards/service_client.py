"""Reward terms whose scores come from a service (see `medtune.rewards.service`).

Nothing that goes wrong becomes a score: a service that is not ready in time, fails, answers with
too few numbers or with something else stops the run with the names of the samples. Nothing is sent
to another machine unless `allow_remote` names the source of every sample.
"""

import asyncio
import math
from collections.abc import Collection, Sequence
from typing import Any

import httpx

from medtune.config.chest_scores import RewardServiceConfig
from medtune.llm.guard import check_permitted, local_address
from medtune.metrics.models import as_reward
from medtune.records.sample import Sample
from medtune.rewards.base import Judged, Term
from medtune.rewards.reports import REPORT, has_reference, length_guard, reference
from medtune.runtime.errors import MedtuneError

WEIGHT = 0.45  # as the other terms of reports
LONGEST_PAUSE = 30.0  # seconds
ALLOW = "reward.service.allow_remote"
POLL = 1.0  # seconds between two questions whether the service is ready


class ServiceError(MedtuneError):
    """A reward service cannot be used."""


class Service:
    """Client of a service.

    Args:
        config: Where it is, what it scores, and how patient to be.
    """

    def __init__(self, config: RewardServiceConfig) -> None:
        self.config, self.metric = config, config.metric
        self._ready = False
        self._tls = {"sni_hostname": httpx.URL(config.url).host}

    async def scores(
        self, pairs: Sequence[tuple[str, str]], samples: Sequence[Sample]
    ) -> list[float]:
        """Return the score of every (text, reference) pair, in order.

        Equal pairs are sent once. No score is kept for the next call: a model's scores differ in
        the last digits with the texts that it reads together, so that a run which is resumed, and
        has kept nothing, would not be the one that went through.

        Args:
            pairs: The pairs; they are sent in batches.
            samples: What they belong to.

        Raises:
            ConfigError: The texts of a sample may not go there.
            ServiceError: There is no number for a pair.
        """
        names: dict[tuple[str, str], str] = {}
        for pair, sample in zip(pairs, samples, strict=True):
            names.setdefault(pair, sample.id)
        asked, ids = list(names), list(names.values())
        found: list[float] = []
        async with await self._client({sample.source for sample in samples}) as client:
            if not self._ready:
                await self._wait(client)
            for start in range(0, len(asked), self.config.batch_size):
                end = start + self.config.batch_size
                found += await self._batch(client, asked[start:end], ids[start:end])
        scores = dict(zip(asked, found, strict=True))
        return [scores[pair] for pair in pairs]

    async def _client(self, sources: Collection[str]) -> httpx.AsyncClient:
        """Return what speaks to the service about samples of sources.

        Raises:
            ConfigError: Texts of a source may not go there.
        """
        url, headers = httpx.URL(self.config.url), {}
        address = await local_address(url)
        if address is None:
            for source in sorted(sources):
                check_permitted(source, url, self.config.allow_remote, ALLOW)
        else:  # what was resolved is what is connected to: see `local_address`
            headers["Host"], url = url.netloc.decode(), url.copy_with(host=address)
        limit = self.config.timeout_seconds
        return httpx.AsyncClient(base_url=url, headers=headers, timeout=limit, trust_env=False)

    async def _wait(self, client: httpx.AsyncClient) -> None:
        """Wait until the service is ready.

        Raises:
            ServiceError: It is not in time, or scores something else.
        """
        loop = asyncio.get_running_loop()
        end, last = loop.time() + self.config.wait_seconds, "no answer"
        while loop.time() < end:
            try:
                response = await client.get("/health", timeout=POLL * 10, extensions=self._tls)
                if response.status_code == 200:
                    served = _json(response).get("metric")
                    if served != self.metric:
                        raise ServiceError(
                            self.config.url, f"scores {served!r}, not {self.metric!r}", _START
                        )
                    self._ready = True
                    return
                last = f"status {response.status_code}"
            except httpx.TransportError as error:
                last = type(error).__name__
            await asyncio.sleep(min(POLL, self.config.wait_seconds / 10))
        raise ServiceError(
            self.config.url, f"not ready after {self.config.wait_seconds:g} s ({last})", _START
        )

    async def _batch(
        self, client: httpx.AsyncClient, pairs: Sequence[tuple[str, str]], ids: Sequence[str]
    ) -> list[float]:
        response = await self._post(client, {"pairs": pairs}, ids)
        scores = _json(response).get("scores")
        if not isinstance(scores, list) or len(scores) != len(pairs):
            told = len(scores) if isinstance(scores, list) else "no list of"
            raise self._wrong(f"returned {told} scores for {len(pairs)} pairs", ids)
        for score, name in zip(scores, ids, strict=True):
            if isinstance(score, bool) or not isinstance(score, int | float):
                raise self._wrong(f"returned {score!r} as a score", [name])
            if not math.isfinite(score):
                raise self._wrong(f"returned {score!r} as a score", [name])
        return [float(score) for score in scores]

    async def _post(
        self, client: httpx.AsyncClient, content: Any, ids: Sequence[str]
    ) -> httpx.Response:
        """Return the response to a request, which is sent again after what may pass."""
        failure = ""
        for attempt in range(self.config.attempts):
            if attempt:
                await asyncio.sleep(min(LONGEST_PAUSE, 0.5 * 2.0 ** (attempt - 1)))
            try:
                response = await client.post("/score", json=content, extensions=self._tls)
            except httpx.TransportError as error:
                failure = f"{type(error).__name__} {error}".strip()
                continue
            if response.status_code == 200:
                return response
            failure = f"status {response.status_code}: {response.text[:300]}"
            if response.status_code < 500 and response.status_code != 429:
                break
        raise self._wrong(f"failed ({failure})", ids)

    def _wrong(self, found: str, ids: Sequence[str]) -> ServiceError:
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        return ServiceError(
            self.config.url, f"{found}, for {ids[0]}{more}", "see the log of the service"
        )


_START = "start the service of this metric, see its log, or raise `wait_seconds`"


def _json(response: httpx.Response) -> dict[str, Any]:
    """Return the object of a response; an empty one if it holds none."""
    try:
        content = response.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def is_report(sample: Sample) -> bool:
    """Whether a report is asked for, and there is one to compare with."""
    return sample.task == REPORT and has_reference(sample)


def served_term(config: RewardServiceConfig) -> Term:
    """Return the term of reports that a service scores, guarded as the other terms of texts are."""
    service, metric = Service(config), config.metric

    async def score(judged: Sequence[Judged]) -> list[float]:
        asked = [one for one in judged if one.answer is not None]
        pairs = [(one.answer.text, reference(one.sample)) for one in asked]
        found = iter(await service.scores(pairs, [one.sample for one in asked]))
        return [
            0.0 if one.answer is None else length_guard(one) * as_reward(metric, next(found))
            for one in judged
        ]

    return Term(metric, WEIGHT, score, batched=True, concerns=is_report)
