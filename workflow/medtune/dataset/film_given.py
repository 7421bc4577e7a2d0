"""Texts that others have made: filtered reports and conversations, checked like those made here.

Layouts are those of RadVLM's published code: `<study>.txt` with a filtered report, `<image>.json`
with a list of turns, whose boxes are `[x1, y1, x2, y2]` in fractions of the image.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from medtune.config.chest_sources import ChestSourceConfig
from medtune.records.film import Film
from medtune.runtime.console import log
from medtune.runtime.files import canonical_json
from medtune.runtime.tables import write_rows
from medtune.texts.items import Answer, ConversationItem, Item, ReportItem
from medtune.texts.run import DONE, REFUSED
from medtune.texts.steps import Step

GIVEN = "given"  # stands for prompt and model in the tables
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
SHARES = re.compile(r"\[\s*(\d?\.?\d+)\s*,\s*(\d?\.?\d+)\s*,\s*(\d?\.?\d+)\s*,\s*(\d?\.?\d+)\s*\]")
FOLDERS = {
    "conversation": "standard",
    "conversation_grounded": "grounding",
    "conversation_sentences": "padchest",
}
CLOSE = 0.011  # of a fraction that was rounded to two decimals


class Found(NamedTuple):
    """What was found for an item: its text, or None where there is no file."""

    item: Item
    text: str | None


def write_given(step: Step, found: Iterable[Found], output: Path, rejects: Path) -> None:
    """Check texts as if a language model had answered, and write the same tables as `run_step`.

    Args:
        step: Which step they would be answers of; it says what is wrong with one.
        found: The texts: answers of the step as JSON.
        output: Gets those that stand.
        rejects: Gets those that do not, with the reasons.
    """
    done, refused, missing = [], [], 0
    for item, text in sorted(found, key=lambda one: one.item.id):
        if text is None:
            missing += 1
            continue
        row = {"id": item.id, "prompt": GIVEN, "model": GIVEN}
        answer, faults = _judged(step, item, text)
        if answer is None:
            reasons = {"attempt": 0, "reasons": canonical_json(faults), "text": text}
            refused.append(row | reasons | {"dropped": True})
        else:
            tokens = {"tokens_in": 0, "tokens_out": 0, "attempts": 1}
            done.append(row | {"result": canonical_json(answer.model_dump())} | tokens)
    write_rows(rejects, refused, REFUSED)
    write_rows(output, done, DONE)
    if not (done or refused or missing):  # nothing was wanted
        return
    log(
        f"{step.name} {output.stem}, given: {len(done)} taken, {len(refused)} refused (reasons in "
        f"{rejects.name}), {missing} without a file"
    )


def _judged(step: Step, item: Item, text: str) -> tuple[Answer | None, list[str]]:
    try:
        answer = step.answer.model_validate_json(text)
    except ValidationError as error:
        form = [f"form: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return None, form
    faults = step.faults(item, answer)
    return (None, faults) if faults else (answer, [])


def given_reports(
    config: ChestSourceConfig, films: Sequence[Film], items: Iterable[ReportItem]
) -> Iterator[Found]:
    """Yield the filtered report of each study of a shard, as the answer of the step `filter`.

    A file is named by its study (with or without MIMIC-CXR's `s`; of CheXpert-Plus
    `train_patient00001_study1`), and is a text, or JSON: a text or an object with `report`. "None"
    and nothing say that nothing is left.

    Args:
        config: The source, with `filtered_reports`.
        films: Of the shard.
        items: Its reports.
    """
    folder = Path(config.filtered_reports or "")
    paths = {f"{film.source}/{film.study_id}": film.path for film in films}
    for item in items:
        study = item.id.partition("/")[2]
        names = [study, study.removeprefix("s"), f"{Path(paths[item.id]).parts[0]}_{study}"]
        path = next(
            (
                path
                for name in dict.fromkeys(names)
                for path in (folder / f"{name}.txt", folder / f"{name}.json")
                if path.is_file()
            ),
            None,
        )
        yield Found(item, None if path is None else _report(path))


def _report(path: Path) -> str:
    """Return a filtered report as the answer of its step; what is no text stays as it is."""
    text: Any = _read(path)
    if path.suffix == ".json":
        try:
            text = json.loads(text)
        except ValueError:
            return str(text)
        text = text.get("report", text) if isinstance(text, dict) else text
    if isinstance(text, str) and text.strip().strip(".").lower() in ("", "none"):
        text = None
    return json.dumps({"report": " ".join(text.split()) if isinstance(text, str) else text})


def _read(path: Path) -> str:
    """Return a file's text; bytes that are no UTF-8 become what every check refuses."""
    return path.read_text(encoding="utf-8-sig", errors="backslashreplace")


def conversation_files(folder: Path, step: str) -> dict[str, list[Path]]:
    """Return image -> its files, of all below a folder.

    Where an image has several, those in folders that the published code has for the step count.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.json")):
        found.setdefault(path.stem, []).append(path)
    for paths in found.values():
        meant = [path for path in paths if path.parent.name == FOLDERS.get(step)]
        paths[:] = meant or paths
    return found


def given_talks(
    files: Mapping[str, Sequence[Path]],
    items: Iterable[ConversationItem],
    boxed: Callable[[ConversationItem], Mapping[tuple[float, ...], str]],
) -> Iterator[Found]:
    """Yield the conversation of each image of a shard, as the answer of its step.

    Args:
        files: See `conversation_files`.
        items: What is known of the images.
        boxed: Returns the boxes of an item, in fractions of its image, and how texts here write
            each. A box that is none of them stays as it is, and is refused.
    """
    for item in items:
        paths = files.get(item.id.partition("/")[2], ())
        if len(paths) > 1:  # which of them is meant is not known: refused, since it is no JSON
            yield Found(item, f"several files: {', '.join(map(str, paths))}")
        else:
            yield Found(item, _talk(_read(paths[0]), boxed(item)) if paths else None)


def _talk(text: str, boxes: Mapping[tuple[float, ...], str]) -> str:
    """Return a published conversation in the form of `Conversation`, or as it is if it is none."""
    try:
        turns = json.loads(text)
        if isinstance(turns, dict):
            turns = turns["conversations"]
        said = [
            {"role": ROLES[turn["from"]], "text": _with_boxes(turn["value"], boxes)}
            for turn in turns
        ]
    except (ValueError, LookupError, TypeError):
        return text
    return json.dumps({"turns": said})


def _with_boxes(text: str, boxes: Mapping[tuple[float, ...], str]) -> str:
    """Return a turn with its boxes as texts here write them."""

    def written(match: re.Match[str]) -> str:
        shares = [float(share) for share in match.groups()]
        distances = {
            max(abs(a - b) for a, b in zip(shares, known, strict=True)): form
            for known, form in boxes.items()
        }
        nearest = min(distances, default=1.0)
        return distances[nearest] if nearest < CLOSE else match.group()

    return SHARES.sub(written, text.removeprefix("<image>").strip())
