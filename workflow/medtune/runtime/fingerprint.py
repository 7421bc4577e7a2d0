"""What the code of a verb does, as a hash: a change of it reruns the stage, and no other.

From the verb's function in `medtune.cli` on, every function, class, method and constant of this
package that the code refers to is visited, and every template. A reference counts by what it leads
to, never by its name: definitions are numbered in the order in which they are first met, so that
moving or renaming a module, class or function changes nothing. Comments, docstrings, annotations of
functions, layout, messages and the descriptions of configuration keys do not count, nor does what
is in `PLUMBING`: it decides how a stage runs, not what it writes.

A method is referred to by an attribute of its name, in whatever class it is. Methods of classes
with a foreign base keep their names: foreign code calls them by these.
"""

import ast
import hashlib
import re
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from medtune.runtime.errors import MedtuneError

PACKAGE = Path(__file__).parents[1]
NAME = PACKAGE.name
PLUMBING = (
    *("__main__", "cli", "config.experiment", "config.faults", "config.stages.load_stage"),
    *("runtime.console", "runtime.errors", "runtime.files", "runtime.fingerprint"),
    *("runtime.stopping", "orchestration.attempts", "planning", "training.validation.measured"),
    *("training.memory_check", "training.timing", "training.tracking", "training.hardware"),
    "training.watchdog",
)
VERBS = ("cli.main", "cli.films", "cli.scores", "cli.views")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef)
# A method with another decorator, such as a validator's, is called by more than its name.
DECORATORS = {"property", "cached_property", "classmethod", "staticmethod", "contextmanager"}
# Bases that call no methods of a class, but decorated and special ones.
QUIET = {(":pydantic", "BaseModel"), (":typing", "Protocol")}
Origin = tuple[str, str]  # module and name; a foreign module begins with ":"


@dataclass(frozen=True)
class Name:
    """A name in some code, or `name.attribute`: what it means depends on what was imported."""

    name: str
    attribute: str = ""


@dataclass(frozen=True)
class Attribute:
    """An attribute in some code: perhaps that of a method."""

    name: str


Token = str | Name | Attribute


@dataclass
class Statement:
    """A parsed statement.

    Attributes:
        tokens: Its code in order: text, and the references in it.
        imported: Where the names come from that it imports itself.
        templates: The templates it names.
    """

    tokens: list[Token] = field(default_factory=list)
    imported: dict[str, Origin] = field(default_factory=dict)
    templates: list[str] = field(default_factory=list)


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
            if isinstance(node, DEFINITIONS):
                self.defined[node.name].append(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
                for name in _assigned(node):
                    self.defined[name].append(node)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                self.imported |= _origins(node)
            elif not _is_text(node) and "TYPE_CHECKING" not in ast.unparse(node):
                self.effects.append(node)
        self._statements: dict[tuple[ast.AST, str], Statement] = {}

    def statement(self, node: ast.AST, name: str) -> Statement:
        """Return a statement as it defines `name`."""
        if (node, name) not in self._statements:
            self._statements[node, name] = _Reader(self, name).read(node)
        return self._statements[node, name]


class _Reader:
    """Reads one statement of a module into tokens.

    Args:
        module: The module.
        name: The name that the statement defines: a class of that name, or a variable.
    """

    def __init__(self, module: Module, name: str) -> None:
        self.module, self.name = module, name
        self.statement = Statement()
        self.nested: dict[str, str] = {}  # functions inside functions, by their order

    def read(self, node: ast.AST) -> Statement:
        """Return the statement."""
        if isinstance(node, FUNCTIONS):
            inner = [child for child in ast.walk(node) if isinstance(child, DEFINITIONS)]
            self.nested = {child.name: f"<{n}>" for n, child in enumerate(inner) if child != node}
        self._add(node, top=True)
        return self.statement

    def _add(self, node: ast.AST, top: bool = False) -> None:
        tokens = self.statement.tokens
        if _is_text(node) or (
            isinstance(node, ast.Expr) and self._calls(node.value, "runtime.console")
        ):
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.statement.imported |= _origins(node)
            return
        if reference := self._reference(node):
            tokens += reference
            return
        tokens.append(type(node).__name__)
        if isinstance(node, ast.Constant) and str(node.value).endswith(".jinja"):
            self.statement.templates.append(str(node.value))
        for key, value in ast.iter_fields(node):
            if value is None or value == [] or self._decides_nothing(node, key):
                continue
            tokens.append(key)
            if key == "name" and isinstance(node, DEFINITIONS):
                # What a definition is called is no part of it; a method's callers refer to it.
                tokens.append("" if top else self.nested.get(node.name, node.name))
                continue
            if key == "attr":
                tokens.append(Attribute(value))
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self._add(child)
                else:
                    tokens.append(repr(child))
        tokens.append(")")  # where a block ends makes a difference

    def _reference(self, node: ast.AST) -> list[Token]:
        """Return the tokens of `name` and of `name.attribute`."""
        if isinstance(node, ast.Name):
            return [self._name(node.id)]
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            return []
        base = self._name(node.value.id)
        if isinstance(base, Name):
            return [Name(base.name, node.attr)]
        return [base, Attribute(node.attr)]  # of itself, or of a nested function

    def _name(self, name: str) -> str | Name:
        if name == self.name:
            return "<self>"
        return self.nested.get(name) or Name(name)

    def _decides_nothing(self, node: ast.AST, key: str) -> bool:
        """Return whether a field of a node is an annotation, a description or a message."""
        if key in ("ctx", "kind", "type_comment", "returns"):
            return True
        if isinstance(node, ast.arg):
            return key == "annotation"
        if isinstance(node, ast.keyword):
            return node.arg == "description"
        return key in ("args", "keywords") and self._calls(node, "runtime.errors")

    def _calls(self, node: ast.AST, module: str) -> bool:
        """Return whether a node calls something that is imported from a module."""
        called = node.func if isinstance(node, ast.Call) else None
        return (
            isinstance(called, ast.Name) and self.module.imported.get(called.id, ("",))[0] == module
        )


def _assigned(node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> list[str]:
    """Return the variables that a statement assigns, in order."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    nodes = (child for target in targets for child in ast.walk(target))
    return [child.id for child in nodes if isinstance(child, ast.Name)]


@cache
def _without_methods(node: ast.ClassDef) -> tuple[ast.ClassDef, list[Any]]:
    """Return a class without the methods that only their names call, and these methods."""
    methods = [child for child in node.body if _is_called_by_name(child)]
    rest = [child for child in node.body if child not in methods]
    return ast.ClassDef(node.name, node.bases, node.keywords, rest, node.decorator_list), methods


def _is_text(node: ast.AST) -> bool:
    """Return whether a statement is a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_called_by_name(node: ast.AST) -> bool:
    """Return whether a statement in a class is a method that nothing but its name calls."""
    if not isinstance(node, FUNCTIONS) or node.name.startswith("__"):
        return False
    return {ast.unparse(decorator) for decorator in node.decorator_list} <= DECORATORS


def _origins(node: ast.Import | ast.ImportFrom) -> dict[str, Origin]:
    """Return name -> where it comes from."""
    if isinstance(node, ast.ImportFrom):
        return {a.asname or a.name: _origin(node.module or "", a.name) for a in node.names}
    return {a.asname or a.name.partition(".")[0]: _origin(a.name, "") for a in node.names}


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


@dataclass(frozen=True)
class Definition:
    """What a reference leads to.

    Attributes:
        module: Its module.
        name: Its name there; `Class.method`; "" for what the module does when it is imported.
        whole: A class with all its methods, since foreign code calls them.
    """

    module: str
    name: str
    whole: bool = False


Part = str | Attribute | Definition


class CallGraph:
    """Visits what a verb leads to, in the order of its code.

    Args:
        package: The package's folder.
        without: Modules and names (`module.name`) whose code does not count.

    Attributes:
        parts: Every definition that was met, in order, with its code.
        templates: Text of every template, in order.
    """

    def __init__(self, package: Path, without: Collection[str]) -> None:
        self.package, self.without = package, without
        self.parts: dict[Definition, list[Part]] = {}
        self.templates: dict[str, str] = {}
        self._methods: dict[Definition, ast.AST] = {}
        self._used: dict[str, None] = {}  # attributes, in the order of their first use
        self._waiting: dict[str, list[Definition]] = defaultdict(list)
        self._queue: deque[Definition] = deque()

    def visit(self, module: str, verb: ast.AST) -> None:
        """Visit the body of a verb, and all that it leads to."""
        root = Definition(module, "")
        self.parts[root] = []
        # Without its options: they are messages.
        self._read(root, ast.Module(getattr(verb, "body", []), []), "")
        while self._queue:
            definition = self._queue.popleft()
            if definition in self._methods:
                self._read(definition, self._methods[definition], "")
            else:
                self._define(definition)

    def code(self) -> Iterator[tuple[str, str]]:
        """Yield `module:name` and the code of every definition, its references as numbers."""
        numbers = {definition: f"#{n}" for n, definition in enumerate(self.parts)}
        called = {definition.name.rpartition(".")[2] for definition in self._methods}
        attributes = {name: f".{n}" for n, name in enumerate(self._used) if name in called}

        def text(part: Part) -> str:
            if isinstance(part, Attribute):
                return attributes.get(part.name, part.name)
            return part if isinstance(part, str) else numbers[part]

        for definition, parts in self.parts.items():
            yield f"{definition.module}:{definition.name}", " ".join(map(text, parts))
        yield from self.templates.items()

    def _meet(self, definition: Definition) -> Definition:
        """Number a definition; its code is read in its turn."""
        if definition not in self.parts:
            self.parts[definition] = []
            self._queue.append(definition)
        return definition

    def _define(self, definition: Definition) -> None:
        parsed = self._parsed(definition.module)
        if self._is_left_out(definition):
            nodes = parsed.defined.get(definition.name, [])
            self.parts[definition] += ["left out", *map(_signature, nodes)]
            return
        self._meet_effects(definition.module)
        for node in parsed.defined[definition.name] if definition.name else parsed.effects:
            if isinstance(node, ast.ClassDef):
                node = self._class(definition, node)  # noqa: PLW2901
            self._read(definition, node, definition.name)

    def _meet_effects(self, module: str) -> None:
        """Meet what a module, and the packages that it is in, do when they are imported."""
        names = module.split(".")
        for name in ("", *(".".join(names[: n + 1]) for n in range(len(names)))):
            parsed = _module(self.package, name)
            effects = Definition(name, "")
            if parsed and parsed.effects and not self._is_left_out(effects):
                self._meet(effects)

    def _class(self, definition: Definition, node: ast.ClassDef) -> ast.ClassDef:
        """Return what counts of a class now; methods that no code has named yet wait for it."""
        if definition.whole:
            for base in node.bases:
                parts = self._refer(definition.module, {}, _base(base), whole=True)
                self.parts[definition] += parts
            return node
        rest, methods = _without_methods(node)
        for method in methods:
            key = Definition(definition.module, f"{node.name}.{method.name}")
            self._methods[key] = method
            self._waiting[method.name].append(key)
            if method.name in self._used:
                self._meet_methods(method.name)
        return rest

    def _meet_methods(self, name: str) -> None:
        for key in self._waiting.pop(name, []):
            holder = Definition(key.module, key.name.partition(".")[0])
            self.parts[self._meet(key)] = [holder, Attribute(name)]

    def _read(self, definition: Definition, node: ast.AST, name: str) -> None:
        """Take in a statement: its code, and what it leads to."""
        statement = self._parsed(definition.module).statement(node, name)
        parts = self.parts[definition]
        for origin in statement.imported.values():
            if not origin[0].startswith(":"):
                self._meet_effects(origin[0])
        for token in statement.tokens:
            if isinstance(token, Name):
                parts += self._refer(definition.module, statement.imported, token)
            else:
                parts.append(self._use(token.name) if isinstance(token, Attribute) else token)
        for template in statement.templates:
            self._read_template(template)

    def _use(self, attribute: str) -> Attribute:
        self._used[attribute] = None
        self._meet_methods(attribute)
        return Attribute(attribute)

    def _refer(
        self, module: str, imported: Mapping[str, Origin], token: Name, whole: bool = False
    ) -> list[Part]:
        """Return what a name stands for, and meet it.

        Args:
            module: The module whose code uses the name.
            imported: Name -> where it comes from, as the code itself has imported it.
            token: The name.
            whole: Take in all methods of a class, not only those that are named somewhere.
        """
        after: list[Part] = [self._use(token.attribute)] if token.attribute else []
        origin = self._resolve(module, imported, token.name)
        if origin and not origin[1] and token.attribute:  # an attribute of a module
            origin, after = self._resolve(origin[0], {}, token.attribute), []
        if origin is None:
            return [token.name, *after]
        if origin[0].startswith(":"):
            return [".".join(origin), *after]
        if not origin[1]:  # a module as an object: all of it
            names = self._parsed(origin[0]).defined
            return [self._meet(self._definition(origin[0], name, whole)) for name in names]
        return [self._meet(self._definition(*origin, whole)), *after]

    def _resolve(self, module: str, imported: Mapping[str, Origin], name: str) -> Origin | None:
        """Return where a name is defined; a name of "" is a module, None a local or builtin."""
        origin: Origin | None = imported.get(name, (module, name))
        while origin and origin[1] and not origin[0].startswith(":"):
            parsed = _module(self.package, origin[0])
            if parsed is None or origin[1] in parsed.defined:
                return origin if parsed else None
            inner = ".".join(filter(None, origin))
            if origin[1] in parsed.imported:
                origin = parsed.imported[origin[1]]
            elif origin != (module, name) and _module(self.package, inner):
                origin = (inner, "")
            else:
                origin = None
        return origin

    def _definition(self, module: str, name: str, whole: bool) -> Definition:
        nodes = self._parsed(module).defined[name]
        classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
        foreign = any(_is_foreign(self.package, module, node) for node in classes)
        return Definition(module, name, bool(classes) and (whole or foreign))

    def _is_left_out(self, definition: Definition) -> bool:
        path = f"{definition.module}.{definition.name}."
        return any(path.startswith(f"{name}.") for name in self.without)

    def _parsed(self, module: str) -> Module:
        parsed = _module(self.package, module)
        assert parsed is not None
        return parsed

    def _read_template(self, name: str) -> None:
        path = self.package.parent / "report" / name
        if name not in self.templates and path.is_file():
            text = re.sub(r"{#.*?#}", "", path.read_text("utf-8"), flags=re.DOTALL)
            self.templates[name] = text
            for other in re.findall(r"[\w.]+\.jinja", text):
                self._read_template(other)


def _base(node: ast.expr) -> Name:
    """Return the name of a class's base, without its parameters."""
    return Name(*ast.unparse(node).partition("[")[0].rsplit(".", 1))


@cache
def _is_foreign(package: Path, module: str, node: ast.ClassDef) -> bool:
    """Return whether a class has a foreign base, near or far, whose code calls its methods."""
    graph = CallGraph(package, ())
    for base in node.bases:
        name = _base(base)
        origin = graph._resolve(module, {}, name.name)
        if origin and not origin[1] and name.attribute:
            origin = graph._resolve(origin[0], {}, name.attribute)
        if origin is None or origin[0].startswith(":"):  # a builtin, such as Exception
            if (origin or ("", name.name)) not in QUIET:
                return True
            continue
        parsed = _module(package, origin[0])
        for other in parsed.defined[origin[1]] if parsed else ():
            if isinstance(other, ast.ClassDef) and _is_foreign(package, origin[0], other):
                return True
    return False


def _signature(node: ast.AST) -> str:
    """Return what tells one left-out definition from another: not its name, nor what it does."""
    if isinstance(node, FUNCTIONS):
        return ", ".join(argument.arg for argument in (*node.args.args, *node.args.kwonlyargs))
    return type(node).__name__


def reached(
    verb: str, without: tuple[str, ...] = (), package: Path = PACKAGE
) -> Iterator[tuple[str, str]]:
    """Yield what a verb leads to: `module:name`, and the code that is hashed.

    Raises:
        MedtuneError: There is no such verb.
    """
    for module in VERBS:
        parsed = _module(package, module)
        if parsed and verb in parsed.defined:
            graph = CallGraph(package, PLUMBING + without)
            graph.visit(module, parsed.defined[verb][0])
            yield from graph.code()
            return
    raise MedtuneError(verb, "is no verb", f"look into {package / 'cli'}")


@cache
def code_sha256(verb: str, without: tuple[str, ...] = (), package: Path = PACKAGE) -> str:
    """Return the first 16 hex digits of the SHA-256 of what the code of a verb does.

    Args:
        verb: Name of its function in `medtune.cli.main`.
        without: Modules and names (`module.name`) that are not used as the verb is configured.
        package: Folder of the package.

    Raises:
        MedtuneError: There is no such verb.
    """
    text = "\n".join(code for _, code in reached(verb, without, package))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
