"""The demo at its smallest, as users run it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from conftest import REPOSITORY

CONFIGS = sorted(
    set((REPOSITORY / "config").glob("*.yaml")) - {REPOSITORY / "config/defaults.yaml"}
)


SMALL = {
    "phantom": {"patients": 16, "shape": [20, 24, 10]},
    "splits": {"val": 0.2, "test": 0.3},
    "media": {"tile_size": [32, 32], "shard_size": 10},
    "sft": {"epochs": 2, "logging_steps": 1, "eval_steps": 4, "batch_size": 4},
    "grpo": {
        "steps": 2,
        "logging_steps": 1,
        "batch_size": 8,
        "num_generations": 4,
        "log_completions_steps": 1,
    },
    "reward": {"file": "terms.py", "weights": {"brevity": 0.1}},
    "evaluation": {"samples": 2, "resamples": 200, "batch_size": 8},
    "report": {"cases": 3},
}


TERMS = """
def brevity(judged):
    return 0.9 ** len(judged.text) if judged.answer else 0.0
"""


TINY = {"hidden_size": 64, "layers": 2, "heads": 2, "mlp_size": 96, "vision_size": 48}


def small_config(folder: Path, **changes) -> Path:
    values = yaml.safe_load((REPOSITORY / "config/config.yaml").read_text())
    for section, update in SMALL.items():
        values[section] = values.get(section, {}) | update
    values["model"]["tiny"] = TINY
    for section, update in changes.items():
        values[section] = values.get(section, {}) | update if isinstance(update, dict) else update
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    (folder / "terms.py").write_text(TERMS)
    return path


def copy_repository(folder: Path) -> None:
    """Copy the repository's files as they are, those that git does not know yet included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)


def snakemake(
    folder: Path,
    *arguments: str,
    config: Path | None = None,
    over: Path | None = None,
    repository: Path = REPOSITORY,
):
    """Run snakemake in a folder of its own, with the workflow of a repository.

    `over` is a second configuration file, whose keys win.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "Snakefile")]
    chosen = ["--configfile", str(config or folder / "config.yaml"), *([str(over)] if over else [])]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [*command, "--directory", str(folder), *arguments, *chosen],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
        check=False,
    )


def planned(run) -> set[str]:
    """Return the rules a dry run wants to run, without the targets."""
    table = re.search(r"^job +count\n-+ +-+\n(.*?)^total", run.stdout + run.stderr, re.M | re.S)
    if table is None:
        return set()
    return {line.split()[0] for line in table[1].splitlines()} - {
        "all",
        "prepare",
        "evaluate",
        "export",
    }
