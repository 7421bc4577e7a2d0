"""The prompts: files in `prompts/`, whose hash is their version.

A file is the instruction, followed by worked examples: `## Example`, then an item and its answer as
two blocks of JSON.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from medtune.runtime.files import sha256_bytes

FOLDER = Path(__file__).parent / "prompts"
_EXAMPLE = re.compile(r"^## Example\n+```json\n(.*?)\n```\n+```json\n(.*?)\n```\n", re.M | re.S)


class Prompt(NamedTuple):
    """A prompt.

    Attributes:
        text: The instruction.
        examples: Items without id and source, and their answers.
        version: SHA-256 of the file.
    """

    text: str
    examples: list[tuple[dict[str, Any], dict[str, Any]]]
    version: str


def prompts_sha256(folder: Path = FOLDER) -> str:
    """Return a hash of all prompts of a folder."""
    return sha256_bytes(b"".join(path.read_bytes() for path in sorted(folder.glob("*.md"))))


def read_prompt(name: str, folder: Path = FOLDER) -> Prompt:
    """Return a prompt by the name of its step."""
    content = (folder / f"{name}.md").read_bytes()
    text = content.decode()
    examples = [(json.loads(item), json.loads(answer)) for item, answer in _EXAMPLE.findall(text)]
    return Prompt(_EXAMPLE.sub("", text).strip(), examples, sha256_bytes(content))
