"""The pins are the whole environment: pip resolves nothing by itself."""

import tomllib
from importlib.metadata import PackageNotFoundError, requires

from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PINS = {
    canonicalize_name(line.split("==")[0])
    for line in (REPOSITORY / "envs/common.txt").read_text().splitlines()
    if "==" in line
}
OTHERS = {"torch", "torchvision", "setuptools"}  # cpu.txt and cuda.txt choose the first two


def needed(lines: list[str], extra: str = "") -> set[str]:
    found = [Requirement(line) for line in lines]
    chosen = (r for r in found if r.marker is None or r.marker.evaluate({"extra": extra}))
    return {canonicalize_name(one.name) for one in chosen}


def test_what_the_project_and_its_tests_name_is_pinned():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert needed(named) - OTHERS <= PINS


def test_what_pinned_packages_need_is_pinned():
    missing = {}
    for name in sorted(PINS):
        try:
            missing[name] = needed(requires(name) or []) - PINS - OTHERS
        except PackageNotFoundError:  # of another platform or test environment
            continue
    assert {name: found for name, found in missing.items() if found} == {}
