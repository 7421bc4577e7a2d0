"""Reward terms of your own, from a Python file that the configuration names.

    reward:
      preset: default
      file: terms.py
      weights: {brevity: 0.1, judge: 0.3, center: 0}

The file is executed, with all your rights, wherever the reward is computed and before anything
runs: name only files that you have read. It defines one function per term, named in
`reward.weights`; what is not named there is not used. Terms of the preset count as well, with
their own weights where `reward.weights` does not replace them.

    def brevity(judged):                      # one answer -> a number in 0..1
        return 1.0 if judged.answer is not None and len(judged.text) < 200 else 0.0

    async def judge(judged):                  # awaited for all answers at once
        return await client.ask(judged.sample.prompt, judged.text)

    BATCHED = ["scorer"]                      # a list of answers -> a list of numbers

    def scorer(judged):
        return model.score([one.text for one in judged])

`judged` is a `medtune.rewards.base.Judged`: `text` is what the model wrote, `answer` the parsed
answer (for `tumor_detection_3d` with `box`, `peak` and `ratio` in the media frame; None if the
text is invalid), `reason` why it is invalid, and `sample` the `medtune.records.sample.Sample` with
`prompt`, `truth`, `geometry` and `media`. Pay nothing for silence: `answer` is None for it.

Training and evaluation call the same functions; a term that raises or leaves 0..1 stops both. A
term that says another thing when asked again makes a run that goes on differ from a whole one. The
file is known by its content: when it changes, GRPO, scores and report run again. What it imports
is not watched, and modules beside it are not found; it is loaded once per process.
"""

import inspect
import sys
import traceback
from collections.abc import Collection
from functools import cache
from pathlib import Path
from types import ModuleType

from medtune.config.training import read_source
from medtune.rewards.base import Term
from medtune.runtime.errors import ConfigError
from medtune.runtime.files import sha256_bytes

MODULE = "medtune_reward_file"
BATCHED = "BATCHED"


def load_terms(
    path: Path, named: Collection[str], preset: Collection[str], sha256: str | None = None
) -> list[Term]:
    """Return the terms that a file defines, with weight 0.

    Args:
        path: The file.
        named: Names that the configuration gives weights to.
        preset: Names of the preset's terms.
        sha256: What the file's content must hash to, if that has been settled.

    Raises:
        ConfigError: The file cannot be loaded, has changed, or does not define what is named.
    """
    source = read_source(path)
    if sha256 is not None and sha256_bytes(source) != sha256:
        raise ConfigError(path, "has changed since this run was planned", "start the run again")
    module = _execute(path, source)
    own = {name for name, value in vars(module).items() if _is_function_of(value, module)}
    twice = sorted(own & set(preset) & set(named))
    if twice:
        raise ConfigError(path, f"defines {twice}, which the preset has too", "rename it")
    wanted = [name for name in named if name not in preset]
    valid = f"valid: {', '.join([*preset, *sorted(own)])}"
    unknown = [name for name in wanted if not hasattr(module, name)]
    if unknown:
        raise ConfigError("reward.weights", f"unknown term {unknown}, not in {path} either", valid)
    if not wanted:
        raise ConfigError(
            "reward.weights",
            f"names none of the functions of {path}",
            f"give one a weight; {valid}",
        )
    return [_term(module, name, path) for name in wanted]


@cache  # a file may hold a model, which is loaded once
def _execute(path: Path, source: bytes) -> ModuleType:
    """Return the module that exactly these bytes define."""
    module = ModuleType(MODULE)
    module.__file__ = str(path)
    sys.modules[MODULE] = module  # dataclasses look their module up
    try:
        exec(compile(source, str(path), "exec"), vars(module))  # noqa: S102 - see above
    except Exception as error:  # the file is anyone's code: whatever it raises stops the run
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        where = f", line {lines[-1]}" if lines else ""
        raise ConfigError(
            path, f"cannot be loaded: {type(error).__name__}: {error}{where}", "correct the file"
        ) from error
    return module


def _is_function_of(value: object, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _term(module: ModuleType, name: str, path: Path) -> Term:
    """Return one term of a module.

    Raises:
        ConfigError: It is no function of one argument, or `BATCHED` is no list of names.
    """
    score, batched = getattr(module, name), getattr(module, BATCHED, [])
    if not isinstance(batched, list) or not all(isinstance(one, str) for one in batched):
        raise ConfigError(path, f"{BATCHED} is {batched!r}", "make it a list of names")
    if not callable(score):
        raise ConfigError(
            path, f"`{name}` is of type {type(score).__name__}", "make it a function, or rename it"
        )
    try:
        inspect.signature(score).bind(None)
    except TypeError as error:
        raise ConfigError(
            path, f"`{name}` cannot be called with one argument ({error})", "let it take `judged`"
        ) from None
    return Term(name, 0.0, score, name in batched, path)
