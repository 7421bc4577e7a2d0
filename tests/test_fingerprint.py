"""The hash of a stage's code: it changes with what the stage does, and with nothing else."""

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from time import process_time
from timeit import timeit

import pytest
from conftest import REPOSITORY

from medtune.config.experiment import load
from medtune.config.stages import REWARD_CODE, stage_code
from medtune.evaluation.predict import JUDGING
from medtune.runtime.errors import MedtuneError
from medtune.runtime.files import sha256_text
from medtune.runtime.fingerprint import PACKAGE, PLUMBING, code_sha256, reached

RULES = "".join(path.read_text() for path in (REPOSITORY / "rules").glob("*.smk"))
VERBS = sorted(set(re.findall(r'code=code\("(\w+)"\)', RULES)))
# Called by what decides nothing: messages, and code that importing a module runs.
MESSAGES = {"training.strategy:sizes", "training.checkpoints:<lambda>", "evaluation.score:_mean"}
TRAINED = {"sft", "grpo"}
# SFT, GRPO (by the collator of SFT) and judge name a method of the same name.
ASKED = {"annotate", "export", "grpo", "judge", "sft"}


def changed(tmp_path: Path, edit) -> set[str]:
    """Return the verbs whose hash an edit of a copy of the package changes.

    SFT is one that evaluates by its loss alone.
    """
    copy = tmp_path / "workflow/medtune"
    shutil.copytree(PACKAGE.parent, copy.parent, ignore=shutil.ignore_patterns("__pycache__"))
    edit(copy)
    without = {"sft": REWARD_CODE}
    return {
        verb
        for verb in VERBS
        if code_sha256(verb, without.get(verb, ()), copy)
        != code_sha256(verb, without.get(verb, ()))
    }


def replacing(name: str, old: str, new: str):
    def edit(package: Path) -> None:
        path = package / name
        text = path.read_text()
        assert old in text, (name, old)
        path.write_text(text.replace(old, new, 1))

    return edit


def test_every_rule_that_runs_a_verb_knows_its_code():
    assert len(VERBS) == 27
    rules = re.findall(r"(?:rule|checkpoint) (\w+):\n(.*?)shell:\n(.*?)(?=\n\n\n|\Z)", RULES, re.S)
    for name, body, shell in rules:
        verb = re.search(r"(?:medtune|-- ) ?([\w-]+) --config", shell)[1].replace("-", "_")
        assert f'code=code("{verb}")' in body, name


HARMLESS = [
    ("runtime/console.py", "10.0", "20.0"),
    ("runtime/files.py", "indent=2", "indent=3"),
    ("training/watchdog.py", "import", "import json\nimport"),
    ("training/result.py", 'log(f"model: {folder}")', 'log(f"the model: {folder}")'),
    ("training/result.py", '"lower the learning rate"', '"raise it"'),
    ("config/training.py", 'description="Peak learning rate."', 'description="Peak."'),
    ("cli/main.py", "Supervised fine-tuning", "Fine-tuning"),
    ("cli/main.py", 'help="Folder written by `model`."', 'help="Folder."'),
    ("../report/base.html.jinja", "{# The page", "{# This page"),
]


def test_comments_docstrings_layout_messages_and_plumbing_are_no_code(tmp_path):
    def edit(package: Path) -> None:
        for change in HARMLESS:
            replacing(*change)(package)
        for path in package.rglob("*.py"):
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                    node.body[0].value.value = "Something else."
                if isinstance(node, ast.FunctionDef):
                    node.returns = None
            path.write_text("# a comment\n" + ast.unparse(tree))

    assert changed(tmp_path, edit) == set()


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("media/video.py", "ERROR_BOUNDS = {", "ERROR_BOUNDS = {'x': 0, ", {"convert"}),
        ("tasks/brain/tumor_detection_3d.py", '"Locate the {}."', '"Spot {}."', ASKED),
        ("tasks/brain/tumor_metrics.py", "float(iou >= bound)", "float(iou > bound)", {"score"}),
        ("rewards/terms.py", ">= 2", ">= 3", {"difficulty", "grpo", "score"}),
        ("evaluation/predict.py", "or _next_other(sample, everyone)", "", {"predict"}),
        ("evaluation/score.py", "TOGETHER = 64", "TOGETHER = 32", {"score"}),
        ("training/sft.py", "model_accepts_loss_kwargs = True", "x = True", {"sft"}),
        ("training/result.py", "model.float().merge", "model.merge", TRAINED),
        ("training/checkpoints.py", 'place == "cpu:0"', 'place == "cpu"', TRAINED),
        ("training/curriculum.py", "distance**2 / 2", "distance**2", {"grpo"}),
        ("../report/report.html.jinja", "<h1>{{ title", "<h1 >{{ title", {"report"}),
        ("../report/base.html.jinja", "<head>", "<head >", {"report", "qc_page"}),
        ("../report/card.md.jinja", "**Not for clinical use.**", "Research.", {"export"}),
    ],
)
def test_a_change_concerns_the_verbs_that_lead_to_it(tmp_path, name, old, new, expected):
    assert changed(tmp_path, replacing(name, old, new)) == expected


def hashed(tmp_path: Path, code: str) -> str:
    """Return the hash of a verb whose function calls `f` of a module with this code."""
    package = tmp_path / sha256_text(code) / "medtune"
    (package / "cli").mkdir(parents=True, exist_ok=True)
    (package / "cli/main.py").write_text("def verb():\n    from medtune.a import f\n\n    f()\n")
    (package / "a.py").write_text(code)
    return code_sha256("verb", (), package)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("def f():\n  for a in b:\n    x()\n    y()", "def f():\n  for a in b:\n    x()\n  y()"),
        (
            "def f():\n  if a:\n    if b:\n      x()\n    else:\n      y()",
            "def f():\n  if a:\n    if b:\n      x()\n  else:\n    y()",
        ),
        ("def f(a=1): x()", "def f(a=2): x()"),
        ("C = 1\ndef f(): C", "C = 2\ndef f(): C"),
        ("from x import g\ndef f(): g()", "from y import g\ndef f(): g()"),
        ("def f(): g()\ndef g(): 1()", "def f(): g()\ndef g(): 2()"),
        (
            "def f(): A().m()\nclass A:\n  def m(self): 1()",
            "def f(): A().m()\nclass A:\n  def m(self): 2()",
        ),
        (
            "from x import X\ndef f(): B()\nclass A:\n  def m(self): 1()\nclass B(A, X): pass",
            "from x import X\ndef f(): B()\nclass A:\n  def m(self): 2()\nclass B(A, X): pass",
        ),
        ("print(1)\ndef f(): pass", "print(2)\ndef f(): pass"),
        # Of definitions that look alike, which of them is used where.
        (
            "def f(): g(); h(); g()\ndef g(): 1()\ndef h(): 1()",
            "def f(): g(); h(); h()\ndef g(): 1()\ndef h(): 1()",
        ),
        ("A, B = 1, 2\ndef f(): A", "A, B = 1, 2\ndef f(): B"),
        ("def f():\n  def g(): 1\n  g()", "def f():\n  def g(): 1\n  f()"),
        ("class A:\n  x = 1\n  y = 1\ndef f(): A.x", "class A:\n  x = 1\n  y = 1\ndef f(): A.y"),
    ],
)
def test_a_difference_in_what_runs_is_one_of_the_hash(tmp_path, first, second):
    assert hashed(tmp_path, first) != hashed(tmp_path, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("def f(): pass\ndef g(): 1()", "def f(): pass\ndef g(): 2()"),
        ("def f(a: int) -> int: pass", "def f(a): pass"),
        (
            "def f(): A()\nclass A:\n  def m(self): 1()",
            "def f(): A()\nclass A:\n  def m(self): 2()",
        ),
        ("def f(): x(1, 2)", "def f():\n    # why\n    x(1,\n      2)"),
        ("def f(): g()\ndef g(): f()", "def f(): h()\ndef h(): f()"),
        (
            "def f(): A().m()\nclass A:\n  def m(self): B()\nclass B: 1",
            "class D: 1\nclass C:\n  def n(self): D()\ndef f(): C().n()",
        ),
        ("def f():\n  def g(): 1\n  g()", "def f():\n  def h(): 1\n  h()"),
        ("from x import g\ndef f(): g()", "from x import g as h\ndef f(): h()"),
        ("import x\ndef f(): x.g()", "from x import g\ndef f(): g()"),
        ("C = 1\ndef f(): C", "D = 1\ndef f(): D"),
    ],
)
def test_a_difference_elsewhere_is_none(tmp_path, first, second):
    assert hashed(tmp_path, first) == hashed(tmp_path, second)


def renaming(package: Path, pattern: str, new: str) -> None:
    before = [path.read_text() for path in package.rglob("*.py")]
    for path in package.rglob("*.py"):
        path.write_text(re.sub(rf"\b{pattern}\b", new, path.read_text()))
    assert before != [path.read_text() for path in package.rglob("*.py")]


def moving(package: Path, old: str, new: str) -> None:
    """Move a module, with all its users."""
    (package / old).rename(package / new)
    renaming(package, *(f"medtune.{name[:-3].replace('/', '.')}" for name in (old, new)))


@pytest.mark.parametrize(
    "edit",
    [
        lambda package: moving(package, "runtime/tables.py", "media/tabular.py"),
        lambda package: renaming(package, "atomic_folder", "replaced_folder"),
        lambda package: moving(package, "tasks/brain/tumor_metrics.py", "metrics/tumor.py"),
        lambda package: renaming(package, "all_gather_object", "everyones"),
        lambda package: renaming(package, "read_rows", "table_rows"),
        lambda package: renaming(package, "Converted", "ConvertedCase"),
        lambda package: renaming(package, "lps_to_media", "to_media_frame"),
        lambda package: renaming(package, "TILE_OFFSETS", "OFFSETS_OF_TILES"),
    ],
    ids=[
        "module",
        "plumbing",
        "between folders",
        "function",
        "helper",
        "class",
        "method",
        "constant",
    ],
)
def test_moving_and_renaming_rerun_nothing(tmp_path, edit):
    assert changed(tmp_path, edit) == set()


@pytest.mark.parametrize("name", [*PLUMBING, *REWARD_CODE, *JUDGING])
def test_what_is_left_out_exists(name):
    """A name that is gone would let its code rerun stages again, and nobody would know why."""
    module, _, attribute = f"medtune.{name}".rpartition(".")
    try:
        import_module(f"medtune.{name}")
    except ModuleNotFoundError:
        assert hasattr(import_module(module), attribute)


def test_sft_leads_to_the_reward_only_if_it_evaluates_by_it():
    config = load(REPOSITORY / "config/config.yaml")
    rewarded = config.model_copy(
        update={"sft": config.sft.model_copy(update={"eval_generation_samples": 2})}
    )
    assert stage_code(config, "sft") == code_sha256("sft", REWARD_CODE)
    assert stage_code(rewarded, "sft") == code_sha256("sft")
    assert stage_code(config, "sft") != stage_code(rewarded, "sft")
    assert stage_code(config, "grpo") == stage_code(rewarded, "grpo")


def test_the_hash_is_the_same_in_every_process():
    code = f"from medtune.runtime.fingerprint import *; print([code_sha256(v) for v in {VERBS}])"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert found == {f"{[code_sha256(verb) for verb in VERBS]}\n"}


def test_the_hash_is_fast_and_an_unknown_verb_an_error():
    seconds = timeit(lambda: [list(reached(v)) for v in VERBS], number=1, timer=process_time)
    assert seconds < 3, "the workflow hashes all verbs whenever it is parsed"
    with pytest.raises(MedtuneError, match="is no verb"):
        code_sha256("nothing")


def lacking(verb: str, called: set[str], without: tuple[str, ...] = ()) -> set[str]:
    """Return what a verb called that decides something and is not in the hash of its code."""
    known = {name for name, _ in reached(verb, without)}
    return {
        one
        for one in called - MESSAGES
        if not any(f"{one}.".replace(":", ".").startswith(f"{name}.") for name in PLUMBING)
        and not {one, one.rpartition(".")[0]} & known
    }
