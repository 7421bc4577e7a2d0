"""What the code of a verb does, as a hash: a change of it reruns the stage, and no other.

From the verb's function in `medtune.cli` on, every function, class, method and constant of this
package is followed that it names, and every template. Comments, docstrings, annotations of
functions, layout, messages and the descriptions of configuration keys do not count, nor does what
is in `PLUMBING`: it decides how a stage runs, not what it writes.
"""

import ast
import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from medtune.errors import MedtuneError

PACKAGE = Path(__file__).parent
NAME = PACKAGE.name
PLUMBING = (
    *(
        "cli",
        "cli_films",
        "cli_scores",
        "cli_views",
        "config",
        "console",
        "errors",
        "files",
        "fingerprint",
        "stages.load_stage",
    ),
    *("stopping", "planning", "training.longest", "training.timing", "training.tracking"),
    *("training.machine", "training.watchdog", "cli_options", "__main__"),
)
VERBS = ("cli", "cli_films", "cli_scores", "cli_views")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# A method with another decorator, such as a validator's, is called by more than its name.
DECORATORS = {"property", "cached_property", "classmethod", "staticmethod", "contextmanager"}
# Bases that call no methods of a class, but decorated and special ones.
QUIET = {(":pydantic", "BaseModel"), (":typing", "Protocol")}
Origin = tuple[str, str]  # module and name; a foreign module begins with ":"


@dataclass
class Said:
    """What some code says.

    Attributes:
        code: Its nodes, one after the other, each with an end.
        names: The names it uses.
        attributes: The attributes it uses.
        imported: Where the names come from that it imports itself.
        templates: The templates it names.
    """

    code: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    imported: dict[str, Origin] = field(default_factory=dict)
    templates: set[str] = field(default_factory=set)


class Module:
    """A parsed module.

    Attributes:
        defined: Name -> the statements that define it.
        imported: Name -> where it comes from.
        effects: Statements that do something when the module is imported.
    """

    def __init__(self, path: Path) -> None:
        self.defined: dict[str, list[ast.AST]] = defaultdict(list)
        self.imported: dict[str, Origin] = {}
        self.effects: list[ast.AST] = []
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                self.defined[node.name].append(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for one in (one for target in targets for one in ast.walk(target)):
                    if isinstance(one, ast.Name):
                        self.defined[one.id].append(node)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                self.imported |= _origins(node)
            elif not _is_text(node) and "TYPE_CHECKING" not in ast.unparse(node):
                self.effects.append(node)
        self._said: dict[ast.AST, Said] = {}

    def said(self, node: ast.AST) -> Said:
        """Return what a statement of this module says."""
        if node not in self._said:
            self._said[node] = said = Said()
            self._listen(node, said)
        return self._said[node]

    def _listen(self, node: ast.AST, said: Said) -> None:
        if _is_text(node) or (isinstance(node, ast.Expr) and self._calls(node.value, "console")):
            return
        said.code.append(type(node).__name__)
        if isinstance(node, ast.Name):
            said.names.add(node.id)
        elif isinstance(node, ast.Attribute):
            said.attributes.add(node.attr)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            said.imported |= _origins(node)
        elif isinstance(node, ast.Constant) and str(node.value).endswith(".jinja"):
            said.templates.add(str(node.value))
        for name, value in ast.iter_fields(node):
            if value is None or value == [] or self._decides_nothing(node, name):
                continue
            said.code.append(name)
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, ast.AST):
                    self._listen(one, said)
                else:
                    said.code.append(repr(one))
        said.code.append(")")  # where a block ends makes a difference

    def _decides_nothing(self, node: ast.AST, name: str) -> bool:
        """Return whether a field of a node is an annotation, a description or a message."""
        if name in ("ctx", "kind", "type_comment", "returns"):
            return True
        if isinstance(node, ast.arg):
            return name == "annotation"
        if isinstance(node, ast.keyword):
            return node.arg == "description"
        return name in ("args", "keywords") and self._calls(node, "errors")

    def _calls(self, node: ast.AST, module: str) -> bool:
        """Return whether a node calls something that is imported from a module."""
        called = node.func if isinstance(node, ast.Call) else None
        return isinstance(called, ast.Name) and self.imported.get(called.id, ("",))[0] == module


@cache
def _without_methods(node: ast.ClassDef) -> tuple[ast.ClassDef, list[Any]]:
    """Return a class without the methods that only their names call, and these methods."""
    held = [one for one in node.body if _is_called_by_name(one)]
    rest = [one for one in node.body if one not in held]
    return ast.ClassDef(node.name, node.bases, node.keywords, rest, node.decorator_list), held


def _is_text(node: ast.AST) -> bool:
    """Return whether a statement is a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_called_by_name(node: ast.AST) -> bool:
    """Return whether a statement in a class is a method that nothing but its name calls."""
    if not isinstance(node, FUNCTIONS) or node.name.startswith("__"):
        return False
    return {ast.unparse(one) for one in node.decorator_list} <= DECORATORS


def _origins(node: ast.Import | ast.ImportFrom) -> dict[str, Origin]:
    """Return name -> origin of everything that an import brings."""
    if isinstance(node, ast.ImportFrom):
        return {one.asname or one.name: _origin(node.module or "", one.name) for one in node.names}
    return {one.asname or one.name.partition(".")[0]: _origin(one.name, "") for one in node.names}


def _origin(module: str, name: str) -> Origin:
    if module.partition(".")[0] != NAME:
        return f":{module}", name
    return module.removeprefix(NAME).removeprefix("."), name


@cache
def _module(package: Path, name: str) -> Module | None:
    """Return a module of the package by its name in it, or None if there is none."""
    folder = package.joinpath(*name.split(".")) if name else package
    for path in (folder / "__init__.py", folder.with_suffix(".py")):
        if path.is_file():
            return Module(path)
    return None


class Walk:
    """Follows code from one name to the next.

    Args:
        package: The package's folder.
        without: Modules and names (`module.name`) that are not followed.

    Attributes:
        found: `module:name` -> its code.
    """

    def __init__(self, package: Path, without: Collection[str]) -> None:
        self.package, self.without = package, without
        self.found: dict[str, str] = {}
        self.used: set[str] = set()  # attributes
        self.waiting: dict[str, list[tuple[str, str, ast.AST]]] = defaultdict(list)

    def follow(self, module: str, name: str, whole: bool = False) -> None:
        """Take in what `name` means in a module; `name` may be a module in a package, or "".

        Args:
            module: The module.
            name: The name.
            whole: Take in all methods of a class, not only those that are used.
        """
        parsed, key = _module(self.package, module), f"{module}:{name}{'+' * whole}"
        left_out = any(f"{module}.{name}.".startswith(f"{one}.") for one in self.without)
        if module.startswith(":"):
            self.found[key] = ""
        if parsed is None or left_out or key in self.found:
            return
        self.found[key] = ""
        if module:
            self.follow(module.rpartition(".")[0], "")  # packages are imported with it
        for number, node in enumerate(parsed.effects):
            self.take(module, f"#{number}", node)
        for number, node in enumerate(parsed.defined.get(name, [])):
            if isinstance(node, ast.ClassDef):
                node = self._class(module, node, whole)  # noqa: PLW2901
            self.take(module, f"{name}{'+' * whole}#{number}", node)
        if name in parsed.imported:
            self.follow(*parsed.imported[name], whole=whole)
        elif name and name not in parsed.defined:
            self._module(f"{module}.{name}".strip("."))

    def _module(self, name: str) -> None:
        """Take in all of a module that is used as an object."""
        parsed = _module(self.package, name)
        for one in parsed.defined if parsed else ():
            self.follow(name, one)

    def _class(self, module: str, node: ast.ClassDef, whole: bool) -> ast.ClassDef:
        """Return what counts of a class now; methods that nothing has named yet wait for it."""
        if whole or self._is_foreign(module, node):
            for base in node.bases:
                self.follow(*self._origin(module, base), whole=True)
            return node
        rest, held = _without_methods(node)
        for method in held:
            self._wait(method.name, (module, f"{node.name}.{method.name}", method))
        return rest

    def take(self, module: str, name: str, node: ast.AST) -> None:
        """Take in a statement of a module: its code, and what it leads to."""
        parsed = _module(self.package, module)
        assert parsed is not None
        said = parsed.said(node)
        self.found[f"{module}:{name}"] = " ".join(said.code)
        for origin in said.imported.values():
            self.follow(*origin)
        for one in said.names - said.imported.keys():
            if one in parsed.imported:
                self.follow(*parsed.imported[one])
            elif one in parsed.defined:
                self.follow(module, one)
        for attribute in said.attributes - self.used:
            self.used.add(attribute)
            for method in self.waiting.pop(attribute, []):
                self.take(*method)
        for template in said.templates:
            self._template(template)

    def _is_foreign(self, module: str, node: ast.ClassDef) -> bool:
        """Return whether a class has a foreign base, near or far, whose code calls its methods."""
        for origin in (self._origin(module, base) for base in node.bases):
            if origin[0].startswith(":") and origin not in QUIET:
                return True
            parsed = _module(self.package, origin[0])
            for base in parsed.defined.get(origin[1], []) if parsed else []:
                if isinstance(base, ast.ClassDef) and self._is_foreign(origin[0], base):
                    return True
        return False

    def _origin(self, module: str, base: ast.expr) -> Origin:
        """Return where the base of a class comes from."""
        parsed = _module(self.package, module)
        assert parsed is not None
        name = ast.unparse(base).partition("[")[0]
        return (module, name) if name in parsed.defined else parsed.imported.get(name, (":", name))

    def _wait(self, attribute: str, method: tuple[str, str, ast.AST]) -> None:
        if attribute in self.used:
            self.take(*method)
        else:
            self.waiting[attribute].append(method)

    def _template(self, name: str) -> None:
        path = self.package.parent / "report" / name
        if name not in self.found and path.is_file():
            self.found[name] = re.sub(r"{#.*?#}", "", path.read_text("utf-8"), flags=re.DOTALL)
            for other in re.findall(r"[\w.]+\.jinja", self.found[name]):
                self._template(other)


def reached(verb: str, without: tuple[str, ...] = (), package: Path = PACKAGE) -> Iterator[str]:
    """Yield what is hashed, in order: `module:name`, and its code.

    Raises:
        MedtuneError: There is no such verb.
    """
    modules = {name: _module(package, name) for name in VERBS}
    found = [name for name, module in modules.items() if module and verb in module.defined]
    if not found:
        raise MedtuneError(verb, "is no verb", f"look into {package / 'cli.py'}")
    walk = Walk(package, PLUMBING + without)
    for node in modules[found[0]].defined[verb]:  # type: ignore[union-attr]
        # Without its options: they are messages.
        walk.take(found[0], verb, ast.Module(getattr(node, "body", []), []))
    for name, code in sorted(walk.found.items()):
        yield f"{name} {code}"


@cache
def code_sha256(verb: str, without: tuple[str, ...] = (), package: Path = PACKAGE) -> str:
    """Return the first 16 hex digits of the SHA-256 of what the code of a verb does.

    Args:
        verb: Name of its function in `medtune.cli`.
        without: Modules and names (`module.name`) that are not used as the verb is configured.
        package: Folder of the package.

    Raises:
        MedtuneError: There is no such verb.
    """
    text = "\n".join(reached(verb, without, package))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
