"""Messages of a question: instruction, worked examples, the item, and what was wrong before."""

import base64
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from medtune.llm.client import Completion
from medtune.runtime.files import canonical_json, sha256
from medtune.texts.items import Item, RationaleItem
from medtune.texts.prompt_files import Prompt
from medtune.texts.steps import Step

Message = dict[str, Any]


def question(step: Step, prompt: Prompt, item: Item) -> list[Message]:
    """Return the messages that ask for an item; its image, if any, by its path and hash."""
    messages: list[Message] = [{"role": "system", "content": prompt.text}]
    for given, answer in prompt.examples:
        example = step.item.model_validate(given | {"id": "", "source": ""})
        messages.append({"role": "user", "content": step.shown(example)})
        messages.append({"role": "assistant", "content": canonical_json(answer)})
    text = step.shown(item)
    if not isinstance(item, RationaleItem):
        return [*messages, {"role": "user", "content": text}]
    image = {"type": "image", "path": str(item.image), "sha256": sha256(item.image)}
    return [*messages, {"role": "user", "content": [image, {"type": "text", "text": text}]}]


def again(messages: Sequence[Message], reply: Completion, faults: Sequence[str]) -> list[Message]:
    """Return the messages that ask again, with what is wrong with the answer."""
    reasons = "\n".join(f"- {fault}" for fault in faults)
    text = f"That answer cannot be used:\n{reasons}\nGive the whole answer in its right form."
    said = reply.text or reply.refusal or "(nothing)"
    return [
        *messages,
        {"role": "assistant", "content": said},
        {"role": "user", "content": text},
    ]


def with_images(messages: Sequence[Message], by: Literal["data", "file"]) -> list[Message]:
    """Return messages as they are sent: images by data URL or file URL."""
    return [one | {"content": _content(one["content"], by)} for one in messages]


def without_paths(messages: Sequence[Message]) -> list[Message]:
    """Return messages as they are hashed: images by their content alone."""
    return [one | {"content": _content(one["content"], None)} for one in messages]


def _content(content: Any, by: Literal["data", "file"] | None) -> Any:
    if isinstance(content, str):
        return content
    return [_part(part, by) for part in content]


def _part(part: dict[str, Any], by: Literal["data", "file"] | None) -> dict[str, Any]:
    if part["type"] != "image":
        return part
    if by is None:
        return {"type": "image", "sha256": part["sha256"]}
    path = Path(part["path"]).resolve()
    url = path.as_uri()
    if by == "data":
        kind = mimetypes.guess_type(path.name)[0] or "image/png"
        url = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
