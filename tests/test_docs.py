"""What the README and the pages of docs/ name exists, and their examples run."""

import re
from pathlib import Path

import pytest
import typer
import yaml
from conftest import REPOSITORY

from medtune import __version__
from medtune.cli.main import app
from medtune.config.training import LoraConfig, ModelConfig, SftConfig
from medtune.runtime.errors import ConfigError
from medtune.training import strategy

README = REPOSITORY / "README.md"
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")
EXTENDING = (REPOSITORY / "docs/extending.md").read_text()
REFERENCE = (REPOSITORY / "config/README.md").read_text()
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def fences(page: Path, language: str) -> list[str]:
    return [code for info, code in FENCE.findall(page.read_text()) if info == language]


def spans(page: Path) -> list[str]:
    """Return the inline code of a page, each piece in a line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {"#" + re.sub(r"[^\w -]", "", one).strip().lower().replace(" ", "-") for one in headings}


def keys() -> tuple[set[str], set[str]]:
    """Return the names of all sections and all keys of the configuration, by its reference."""
    sections, all_keys = set(), set()
    for part in REFERENCE.split("\n## ")[1:]:
        name = re.match(r"`([^`]+)`", part)[1]
        prefix = "" if name == "top level" else f"{name}."
        sections.add(name)
        all_keys |= {prefix + key for key in re.findall(r"^\| `(\w+)` \|", part, re.M)}
    return sections, all_keys


SECTIONS, KEYS = keys()


def unknown_keys(value, prefix: str = "") -> list[str]:
    """Return the keys of a YAML example that the configuration does not have."""
    if isinstance(value, list):
        return [name for item in value for name in unknown_keys(item, prefix)]
    if not isinstance(value, dict) or (prefix and prefix not in SECTIONS):
        return []
    names = {f"{prefix}.{key}" if prefix else key: child for key, child in value.items()}
    below = [name for key, child in names.items() for name in unknown_keys(child, key)]
    return [name for name in names if name not in KEYS] + below


def test_the_readme_is_short():
    assert len(README.read_text().split()) <= 1200


@each_page
def test_links_lead_somewhere(page: Path):
    for target, anchor in LINK.findall(prose(page)):
        if not re.match(r"https?:", target):
            path = (page.parent / target).resolve() if target else page
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), (target, anchor)


def test_every_page_is_reached_from_the_readme():
    named = {(README.parent / target).resolve() for target, _ in LINK.findall(prose(README))}
    assert {page.resolve() for page in PAGES[1:]} <= named


def commands(page: Path) -> list[str]:
    """Return what follows `medtune` wherever a page calls it."""
    blocks = "".join(fences(page, "")).replace("\\\n", " ")
    lines = [line.strip() for line in [*blocks.splitlines(), *spans(page)]]
    return [line.removeprefix("medtune ") for line in lines if line.startswith("medtune ")]


@each_page
def test_commands_and_their_options_exist(page: Path):
    for line in commands(page):
        command = typer.main.get_command(app)
        words = line.partition("#")[0].partition(" -- ")[0].split()
        while words and hasattr(command, "commands") and not words[0].startswith("--"):
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options | {"--help"}, line


def test_commands_are_seen():
    assert len(commands(README)) > 5
    assert sum(len(commands(page)) for page in PAGES) > 30


@each_page
def test_make_targets_exist(page: Path):
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.M))
    lines = [*"".join(fences(page, "")).splitlines(), *spans(page)]
    assert {line.split()[1] for line in lines if line.startswith("make ")} <= targets


@each_page
def test_keys_of_the_configuration_exist(page: Path):
    tops = {name for name in SECTIONS if "." not in name}
    dotted = [code for code in spans(page) if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", code)]
    files = (".yaml", ".json", ".jsonl", ".parquet", ".md", ".csv", ".py", ".smk", ".html", ".svg")
    named = {key for key in dotted if key.split(".")[0] in tops and not key.endswith(files)}
    assert named <= KEYS | SECTIONS
    for example in fences(page, "yaml"):
        assert unknown_keys(yaml.safe_load(example)) == [], example


@each_page
def test_modules_that_a_page_names_exist(page: Path):
    written = set(re.findall(r"^```python file=(\S+)", page.read_text(), re.M)) | {"predict.py"}
    roots = (REPOSITORY, REPOSITORY / "workflow/medtune", REPOSITORY / "tests")
    for name in (code for code in spans(page) if re.fullmatch(r"[\w/]+\.(py|smk)", code)):
        assert name in written or any((root / name).exists() for root in roots), name


WAYS = {
    "weights (`lora: null`)": [(None, [])],
    "adapters": [(LoraConfig(), [])],
    "adapters and head, or added tokens": [
        (LoraConfig(train_head=True), []),
        (LoraConfig(), ["<t1>"]),
    ],
}


def test_the_matrix_of_training_refuses_what_the_code_refuses(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(strategy, "GPUS", True)
    monkeypatch.setattr(strategy.importlib.util, "find_spec", lambda _: True)
    table = (REPOSITORY / "docs/training.md").read_text().partition("| What you train |")[2]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.partition("\n\n")[0].splitlines()
    ]
    names = [name.strip("`") for name in head[1:]]
    assert len(rows) == 2 * len(WAYS)
    for way, dtype, *cells in rows:
        for name, cell in zip(names, cells, strict=True):
            for lora, tokens in WAYS[way]:
                section = SftConfig(strategy=name, lora=lora)
                model = ModelConfig(
                    family="qwen3_vl", builder="tiny", dtype=dtype, added_tokens=tokens
                )
                assert refuses(section, model) == (cell == "refused"), (way, dtype, name)


def refuses(section: SftConfig, model: ModelConfig) -> bool:
    try:
        strategy.strategy_arguments(section, model)
    except ConfigError:
        return True
    return False


def examples() -> dict[str, list[tuple[str, str]]]:
    """Return the runnable blocks of the page on extending, by heading."""
    parts = {part.partition("\n")[0]: part for part in EXTENDING.split("\n## ")[1:]}
    blocks = {name: FENCE.findall(part) for name, part in parts.items()}
    return {
        name: [(info, code) for info, code in found if info.startswith("python ")]
        for name, found in blocks.items()
    }


def test_every_way_of_extending_has_an_example():
    assert len(examples()) >= 5
    assert all(blocks and blocks[-1][0] == "python run" for blocks in examples().values())


@pytest.mark.parametrize("name", examples())
def test_examples_run(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for info, code in examples()[name]:
        if info == "python run":
            exec(compile(code, f"docs/extending.md, {name}", "exec"), {})
        else:
            Path(info.removeprefix("python file=")).write_text(code)


def test_the_version_is_the_same_everywhere(capsys):
    with pytest.raises(SystemExit, match="0"):
        app(["--version"])
    assert capsys.readouterr().out == f"medtune {__version__}\n"
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"] == __version__
