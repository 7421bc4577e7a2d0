"""Which attempt of a job writes a log: the line at its head, and whether a log has it."""

import os
import socket
import time
from pathlib import Path

# Set by the workflow: the number of the attempt, or nothing where it is not known.
ATTEMPT = "MEDTUNE_ATTEMPT"


def head() -> str | None:
    """Return the first line of this job's log, once: what the job starts writes none.

    None outside of the workflow.
    """
    attempt = os.environ.pop(ATTEMPT, None)
    if attempt is None:
        return None
    parts = [f"{time.strftime('%Y-%m-%d %H:%M:%S %z')} on {socket.gethostname()}"]
    if job := os.environ.get("SLURM_JOB_ID"):
        parts.append(f"Slurm job {job}")
    if attempt:
        parts.append(f"attempt {attempt}")
    return ", ".join(parts)


def last_line(log: Path, state: str) -> str:
    """Return the last line of a log that is not empty: for training, its progress.

    Args:
        log: The log; a job that waits in Slurm's queue has not begun one yet.
        state: State of the job, with its number if it is in the queue, see `status.slurm_queue`.
    """
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else None
    name, _, number = state.partition(" as Slurm job ")
    mine = name != "pending" and (not number or f"Slurm job {number}," in f"{(lines or [''])[0]},")
    if lines is None or not mine:
        return "no log yet"
    lines = [line for line in lines if line.strip()]
    return lines[-1].strip()[:160] if lines else "empty so far"
