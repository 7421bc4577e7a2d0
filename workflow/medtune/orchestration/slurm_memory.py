"""How much memory an attempt of a Slurm job gets: more only after one that ran out of it.

The executor keeps the log of every attempt that started in `<logs>/rule_<rule>/<wildcards>/`; Slurm
says there why it killed the job. An attempt without a log was refused by `sbatch`.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path

from medtune.runtime.console import log

LOGS = Path(".snakemake/slurm_logs")
# Of Slurm with cgroups, of Slurm without them, of Python, of PyTorch.
OUT_OF_MEMORY = re.compile(
    r"oom[-_ ]kill|exceeded memory limit|out[-_ ]of[-_ ]memory handler|^MemoryError|"
    r"can't allocate memory|Cannot allocate memory",
    re.IGNORECASE | re.MULTILINE,
)
WAIT_SECONDS = 30


class Attempts:
    """The attempts of one run of the workflow.

    Args:
        since: When the run started, in seconds since the epoch.
        logs: The executor's folder of logs.
        sleep: Waits so many seconds.
    """

    def __init__(
        self, since: float, logs: Path = LOGS, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self.since, self.logs, self.sleep = since, logs, sleep
        # (rule and wildcards) -> attempts seen, and how many of them had started by then
        self.seen: dict[str, tuple[int, int]] = {}

    def out_of_memory(self, rule: str, wildcards: str) -> int:
        """Return how many attempts of a job in this run ended for a lack of memory."""
        texts = (path.read_text(errors="replace") for path in self._started(rule, wildcards))
        return sum(bool(OUT_OF_MEMORY.search(text)) for text in texts)

    def wait_after_refusal(self, rule: str, wildcards: str, attempt: int) -> None:
        """Wait if the attempt before was refused, once, and the longer the more often."""
        job, started = f"{rule} {wildcards}".strip(), len(self._started(rule, wildcards))
        last, before = self.seen.get(job, (1, 0))
        self.seen[job] = (attempt, started)
        if attempt > last and started == before:
            seconds = WAIT_SECONDS * (attempt - 1)
            log(f"{job}: attempt {last} never started; trying again in {seconds} s")
            self.sleep(seconds)

    def _started(self, rule: str, wildcards: str) -> list[Path]:
        """Return the logs of a job's attempts in this run."""
        found = (self.logs / f"rule_{rule}" / wildcards.replace("/", "_")).glob("*.log")
        return [path for path in found if path.stat().st_mtime >= self.since]
