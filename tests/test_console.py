"""Progress in a log, times as people say them, and threads that leave their cores."""

import os
import subprocess
import sys

import pytest

from medtune.runtime import console
from medtune.runtime.console import ProgressLine, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(26150, "7 h 15 min"), (3599.6, "1 h 0 min"), (200, "3 min 20 s"), (44.6, "45 s"), (0, "0 s")],
)
def test_times_are_read_as_hours_and_minutes(seconds, text):
    assert duration(seconds) == text


def lines_of(monkeypatch, capsys, seconds: list[float], resumed: int = 0) -> list[str]:
    """Return the lines of a task whose steps take these times."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: False, raising=False)
    line = ProgressLine("sft", resumed + 2 * len(seconds))
    line.resume(resumed)
    for step in seconds:
        now[0] += step
        line.advance()
    return capsys.readouterr().err.splitlines()


def test_the_time_left_follows_the_present_pace(monkeypatch, capsys):
    lines = lines_of(monkeypatch, capsys, [10.0] * 10 + [100.0] * 10)
    assert "10/40, about 5 min 0 s left" in lines[9]
    assert "20/40, about 33 min 20 s left" in lines[-1], "not the mean of 55 s a step"


def test_what_an_earlier_run_has_done_is_no_pace(monkeypatch, capsys):
    assert "1002/1004, about 20 s left" in lines_of(monkeypatch, capsys, [10.0] * 2, 1000)[-1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "PASSIVE 0"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None")],
)
def test_waiting_threads_sleep_unless_the_user_says_otherwise(given, expected):
    code = (
        "import os; from medtune.__main__ import share_cores; share_cores();"
        "print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
    )
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env | given, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == expected
