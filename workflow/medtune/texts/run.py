"""A step over a shard of items: ask, judge, ask again, and write what came out as tables."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from medtune.config.chest_llm import LlmConfig
from medtune.llm.cache import CompletionCache
from medtune.llm.client import Client, Completion, QuestionError, UnansweredError
from medtune.llm.usage import Summary, Tokens, account, cost, total
from medtune.runtime.console import ProgressLine, log
from medtune.runtime.errors import ConfigError, ModelError
from medtune.runtime.files import canonical_json, sha256_text, write_json
from medtune.runtime.stopping import delayed, requested
from medtune.runtime.tables import write_rows
from medtune.texts.items import Answer, Item
from medtune.texts.messages import Message, again, question, with_images, without_paths
from medtune.texts.prompt_files import Prompt, read_prompt
from medtune.texts.steps import Step, StepName, get_step, judge

DONE = pa.schema(
    [("id", pa.string()), ("result", pa.string()), ("prompt", pa.string()), ("model", pa.string())]
    + [(name, pa.int64()) for name in ("tokens_in", "tokens_out", "attempts")]
)
REFUSED = pa.schema(
    [("id", pa.string()), ("attempt", pa.int64()), ("reasons", pa.string()), ("text", pa.string())]
    + [("prompt", pa.string()), ("model", pa.string()), ("dropped", pa.bool_())]
)
TIMING = pa.schema([("id", pa.string()), ("seconds", pa.float64()), ("asked", pa.int64())])
# So many questions in a row without an answer: the endpoint is gone, others need not wait for it.
PATIENCE = 20


@dataclass
class Outcome:
    """What came of an item: its answer, or None, and the answers that were refused."""

    item: Item
    answer: Answer | None = None
    refused: list[tuple[list[str], str]] = field(default_factory=list)
    used: dict[str, Tokens] = field(default_factory=dict)  # of every question, by key
    seconds: float = 0.0
    asked: int = 0


@dataclass
class Run:
    """A step that is under way."""

    section: LlmConfig
    step: Step
    prompt: Prompt
    seed: int
    client: Client | None
    cache: CompletionCache
    summary: Summary = field(default_factory=Summary)
    outcomes: list[Outcome] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    silent: int = 0  # questions in a row without an answer

    async def all(self, items: Sequence[Item], line: ProgressLine) -> None:
        """Ask for all items; stop early if the user does, or the first task fails."""
        waiting = iter(items)
        tasks = [
            asyncio.create_task(self._work(waiting, line))
            for _ in range(min(len(items), self.section.endpoint.concurrency))
        ]
        running = set(tasks)
        try:
            while running and requested() is None:
                ended, running = await asyncio.wait(
                    running, timeout=0.2, return_when=asyncio.FIRST_EXCEPTION
                )
                for task in ended:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, waiting: Iterator[Item], line: ProgressLine) -> None:
        for item in waiting:  # shared by all workers
            start, outcome = time.monotonic(), Outcome(item)
            try:
                await self._one(outcome)
            except UnansweredError as error:
                self.unanswered.append(str(error))
                self.silent += 1
                if self.silent >= PATIENCE:
                    return
            else:
                outcome.seconds = round(time.monotonic() - start, 3)
                self.outcomes.append(outcome)
            line.advance()

    async def _one(self, outcome: Outcome) -> None:
        """Ask for an item until an answer stands, or none is left."""
        item = outcome.item
        first = messages = question(self.step, self.prompt, item)
        for attempt in range(self.section.reasks + 1):
            try:
                reply = await self._ask(item, messages, attempt, outcome)
            except QuestionError as error:
                outcome.refused.append(([f"endpoint: {error}"], ""))
                return
            outcome.answer, faults = judge(self.step, item, reply)
            if not faults:
                return
            outcome.refused.append((faults, reply.text))
            messages = again(first, reply, faults)

    async def _ask(
        self, item: Item, messages: Sequence[Message], attempt: int, outcome: Outcome
    ) -> Completion:
        """Return the answer to a question, from the cache or the endpoint."""
        decoding = self._decoding()
        serve = self.section.endpoint.serve
        own = {"path": serve.path} if serve else {}
        origin = own | {
            "model": self.section.model,
            "prompt": self.prompt.version,
            "seed": self.seed,
        }
        asked = {"messages": without_paths(messages), "attempt": attempt}
        key = sha256_text(canonical_json(origin | asked | {"decoding": decoding}))

        async def send() -> Completion:
            body = {"model": self.section.model, "seed": int(key[:7], 16)} | decoding
            body["messages"] = with_images(messages, self.section.images)
            assert self.client is not None
            return await self.client.ask(item.source, key, body)

        reply, cached = await self.cache.get(key, send)
        self.silent = self.silent if cached else 0
        self.summary.count(reply, cached)
        outcome.asked += not cached
        outcome.used[key] = Tokens(reply.tokens_in, reply.tokens_out)
        return reply

    def _decoding(self) -> dict[str, Any]:
        section = self.section
        decoding: dict[str, Any] = {"max_completion_tokens": section.max_tokens}
        sampling = {"temperature": section.temperature, "top_p": section.top_p}
        decoding |= {name: value for name, value in sampling.items() if value is not None}
        if section.structured_output:
            schema = self.step.answer.model_json_schema()
            form = {"name": self.step.name, "schema": schema, "strict": True}
            decoding["response_format"] = {"type": "json_schema", "json_schema": form}
        return decoding


def run_step(
    section: LlmConfig,
    step: StepName | Step,
    records: Sequence[Item],
    cache_dir: Path,
    output: Path,
    rejects: Path,
    seed: int = 1,
) -> Summary:
    """Ask a language model for every item of a shard and write the answers that stand.

    `output` has the columns id, result (JSON), prompt (version), model, tokens_in, tokens_out
    (of all attempts), attempts, sorted by id: the same answers give the same bytes. `rejects` has a
    row for each refused answer: id, attempt, reasons (JSON), text, prompt, model, dropped (no later
    answer stood). Beside `output`, `.account.json` says what it all cost (see `account`), and
    `.timing.parquet` tells of this run: id, seconds, asked.

    What was answered is never asked again, however this ends: every answer is on disk before the
    next step is taken. Equal items are asked for once if they are in one shard.

    Args:
        section: The configuration; `endpoint.base_url` is set (see `LlmConfig.at`).
        step: The step, or its name.
        records: Its items, which are never the answers of the same step.
        cache_dir: Folder of answers; see `CompletionCache`.
        output: Parquet file; no other process may write it.
        rejects: Parquet file.
        seed: Decides the seeds of sampling and the lengths of pauses.

    Raises:
        ConfigError: Data may not go to the endpoint, or it refuses this client.
        DataError: An item is not this step's.
        ModelError: Some items got no answer, or the endpoint refuses every question. Nothing is
            written; the next run asks for what is missing.
    """
    chosen = step if isinstance(step, Step) else get_step(step)
    chosen.check(records)
    prompt = read_prompt(chosen.name, chosen.prompts)
    # Named by the whole path: tables of several sources may share a folder of answers.
    cache = CompletionCache(cache_dir, f"{chosen.name}-{sha256_text(str(output.resolve()))[:16]}")

    async def ask_all() -> Run:
        if not records:  # no endpoint need be there
            return Run(section, chosen, prompt, seed, None, cache)
        async with Client(section.endpoint, seed) as client:
            run = Run(section, chosen, prompt, seed, client, cache)
            with ProgressLine(f"{chosen.name} {output.stem}", len(records)) as line:
                await run.all(records, line)
        return run

    with delayed():  # a request to stop ends it between two answers
        run = asyncio.run(ask_all())
        if requested() is not None:
            done = f"{len(run.outcomes)} of {len(records)} items"
            log(f"{chosen.name}: stopped, {done} done; run it again")
    _check_answered(run, len(records))
    _write(run, output, rejects)
    log(f"{chosen.name} {output.stem}: {_finish(run)}")
    return run.summary


def _check_answered(run: Run, wanted: int) -> None:
    if run.client is None:
        return
    host = run.client.url.host
    if run.unanswered:
        missing = wanted - len(run.outcomes)
        found = f"{missing} of {wanted} items got no answer; the last: {run.unanswered[-1]}"
        raise ModelError(host, found, "see the endpoint's log and run again: answers are kept")
    reasons = [one.refused[-1][0][0] for one in run.outcomes if one.refused]
    if wanted and sum(reason.startswith("endpoint: ") for reason in reasons) == wanted:
        status = reasons[0].split(": ")[1]  # its words may repeat the question
        raise ConfigError(
            host,
            f"refuses every question ({status})",
            "check `model`, `max_tokens`, `structured_output`",
        )


def _finish(run: Run) -> str:
    """Complete the summary and return it as text."""
    summary, prices = run.summary, run.section.endpoint.prices
    summary.done = sum(one.answer is not None for one in run.outcomes)
    summary.rejected = len(run.outcomes) - summary.done
    faults = [fault for one in run.outcomes for faults, _ in one.refused for fault in faults]
    counts = Counter(fault.partition(":")[0] for fault in faults)
    summary.reasons = dict(sorted(counts.items()))
    summary.cost = cost(Tokens(summary.tokens_in, summary.tokens_out), prices)
    return summary.text(prices.currency if prices else "")


def _account(run: Run) -> dict[str, Any]:
    answered = [one.used for one in run.outcomes if one.answer is not None]
    rejected = [one.used for one in run.outcomes if one.answer is None]
    return account(answered, rejected, run.section.endpoint.prices)


def _write(run: Run, output: Path, rejects: Path) -> None:
    """Write the tables, the one that counts last."""
    own = {"prompt": run.prompt.version, "model": run.section.model}
    done, refused, timing = [], [], []
    for one in sorted(run.outcomes, key=lambda outcome: outcome.item.id):
        name = one.item.id
        timing.append({"id": name, "seconds": one.seconds, "asked": one.asked})
        for attempt, (reasons, text) in enumerate(one.refused):
            row = {"id": name, "attempt": attempt, "reasons": canonical_json(reasons)}
            refused.append(row | own | {"text": text, "dropped": one.answer is None})
        if one.answer is not None:
            row = {"id": name, "result": canonical_json(one.answer.model_dump())}
            tokens = total(one.used.values())
            counts = {"tokens_in": tokens.sent, "tokens_out": tokens.received}
            done.append(row | own | counts | {"attempts": len(one.refused) + 1})
    write_rows(output.with_suffix(".timing.parquet"), timing, TIMING)
    write_json(output.with_suffix(".account.json"), _account(run))
    write_rows(rejects, refused, REFUSED)
    write_rows(output, done, DONE)
