"""The benchmarks are not run here, but can be: what they import is there."""

import subprocess
import sys

import pytest
from conftest import REPOSITORY

SCRIPTS = sorted((REPOSITORY / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_benchmark_can_be_started(script):
    command = [sys.executable, str(script), "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
