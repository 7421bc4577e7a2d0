"""What is in the repository, and which tests its claims name."""

import re
import subprocess

import pytest
from conftest import REPOSITORY

LISTED = subprocess.run(
    ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False
).stdout.split("\0")[:-1]
KEYS = r"\b(?:hf_|ghp_|AKIA|sk-)[A-Za-z0-9]{16,}"
SITES = r"(?<![\w.])/(?:cluster|scratch|capstor|iopsstor|gpfs|lustre)/"
TESTS = REPOSITORY / "tests"


@pytest.mark.skipif(not LISTED, reason="no git repository, so nothing tells what is tracked")
def test_no_key_path_of_a_site_log_or_dump_is_tracked():
    for name in LISTED:
        path = REPOSITORY / name
        if not path.is_file():  # deleted, and not yet committed
            continue
        assert path.suffix not in {".log", ".out", ".err"}, name
        assert not re.fullmatch(r"core(\.\d+)?", path.name), name
        assert path.stat().st_size < 1_000_000, name
        found = re.search(f"{KEYS}|{SITES}", path.read_text(errors="ignore"))
        assert not found or name == "tests/test_repository.py", (name, found)


def test_no_job_installs_anything():
    for folder in ("rules", "slurm", "profiles"):
        for path in (REPOSITORY / folder).rglob("*"):
            assert not path.is_file() or "pip install" not in path.read_text(), path


def test_the_tests_that_are_said_to_prove_something_exist():
    named = re.findall(
        r"`([\w/]*test_\w+)`(?: \([^)]*\))?(?:: ([^·|(]*))?", (TESTS / "README.md").read_text()
    )
    assert len(named) > 60
    for file, words in named:
        tests = re.findall(r"^def (test_\w+)", (TESTS / f"{file}.py").read_text(), re.M)
        for word in filter(None, words.strip().replace(" ", "_").split(",_")):
            assert any(word in name for name in tests), (file, word)
