"""Tables from a name to the code behind it, read without importing that code.

The Snakefile must know every dataset, extractor and model and check their options, and must not pay for
importing torch; and a run's code fingerprint (`avpipe.plan.fingerprint`) must not change because another model
was added to a table. So a table holds strings, and options are read from the source by `ast`. A person's own code stands in
no table: its name is "package.module:Class", and its file is looked for as Python does, then in the current folder.
"""

import ast
import difflib
import importlib
import math
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

Entry = TypeVar("Entry")

LazyTable = Mapping[str, str]
"""name -> "module:attribute". A module-level `NAME: LazyTable = {...}` is left out of code fingerprints."""

Entries = Mapping[str, Entry]
"""name -> facts about it. `NAME: Entries[...] = {...}` is left out too: a job's fingerprint has the entries that the job uses."""


class UnknownNameError(ValueError):
    """A name or an option that does not exist; the message lists what does."""


def suggest(word: str, known: list[str]) -> str:
    """The end of an error message: the nearest known word, else all of them."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"


def target(table: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """The entry of `name`, in a `LazyTable` "module:attribute"; a name of this form outside the table is its own entry.

    Raises:
        UnknownNameError: the table has no such name, or the file no such class or function; with a suggestion.
    """
    if ":" in name and name not in table:
        own: Any = _checked(name, f"{kind} {name!r}")
        return own
    if name not in table:
        raise UnknownNameError(f"unknown {kind} {name!r}; {suggest(name, list(table))}")
    return table[name]


def _checked(name: str, who: str) -> str:
    """The name, "package.module:Class" of a person's own code, once the class or function is found."""
    if not re.fullmatch(r"[a-z_]\w*(\.\w+)*:[a-z_]\w*", name, re.ASCII | re.IGNORECASE):
        raise UnknownNameError(f"{who}: write package.module:Class, in letters, digits and _")
    module, attribute = name.split(":")
    if file_of(module) is None:
        path = f"{module.replace('.', '/')}.py"
        raise UnknownNameError(f"{who}: no file {path} in {Path.cwd()}, nor on Python's path")
    if _definition(module, attribute) is None:
        known = [node.name for node in _tree(module).body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        raise UnknownNameError(
            f"{who}: {file_of(module)} has no class or function {attribute}; {suggest(attribute, known)}"
        )
    return name


def load(table: LazyTable, name: str, kind: str) -> Any:
    """Import the module of `name` and return the attribute."""
    module, attribute = target(table, name, kind).split(":")
    if name not in table and (home := str(_home(module))) not in sys.path:
        sys.path.append(home)
    return getattr(importlib.import_module(module), attribute)


def file_of(module: str) -> Path | None:
    """The file of a module; nothing is imported. Looked for in this checkout, Python's path, and the current folder."""
    for folder in (str(Path(__file__).parents[2]), *sys.path, str(Path.cwd())):
        base = Path(folder).absolute().joinpath(*module.split("."))
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if path.is_file():
                return path
    return None


def _home(module: str) -> Path | None:
    """The folder from which Python imports a module, for example /study for mypkg.nets in /study/mypkg/nets.py."""
    file = file_of(module)
    return file and file.parents[module.count(".") + (file.name == "__init__.py")]


def belongs(name: str, module: str) -> bool:
    """Whether a module counts as code behind `module`: of avpipe, of the same package, or beside it in a person's own folder."""
    first, own = name.split(".")[0], module.split(".")[0]
    if own == "avpipe" or first in ("avpipe", own):
        return first in ("avpipe", own)
    home = _home(name) or _home(first)
    return home is not None and home == _home(module) and "site-packages" not in home.parts


def imported_from(node: ast.ImportFrom, package: str) -> str:
    """The module in `from ... import`; `package` is that of the file, from which dots count."""
    parts = package.split(".")
    relative = parts[: len(parts) - node.level + 1] if node.level else []
    return ".".join([*relative, *([node.module] if node.module else [])])


@cache
def _tree(module: str) -> ast.Module:
    file = file_of(module)
    if file is None:
        raise UnknownNameError(f"no module {module}")
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UnknownNameError(f"{file} is no valid Python: {error}") from None


@cache
def _definition(module: str, name: str) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """A class or function of a module, or that it imports from code that `belongs` to it; and the module that has it."""
    file = file_of(module)
    package = module if file and file.name == "__init__.py" else module.rpartition(".")[0]
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            home = imported_from(node, package)
            original = next((a.name for a in node.names if (a.asname or a.name) == name), None)
            if original and belongs(home, module) and file_of(home):
                return _definition(home, original)
    return None


def _parts(qualified: str) -> tuple[str, str]:
    module, _, name = qualified.partition(":")
    return module, name


def _value_of(module: str, name: str, attribute: str) -> ast.expr | None:
    """What class `name`, or one of its bases, assigns to the attribute; None if none does."""
    found = _definition(module, name)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return None
    for node in found[1].body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            given = node.targets if isinstance(node, ast.Assign) else [node.target]
            if attribute in [ast.unparse(each) for each in given]:
                return node.value
    bases = (_value_of(found[0], b.id, attribute) for b in found[1].bases if isinstance(b, ast.Name))
    return next((value for value in bases if value is not None), None)


@cache
def names_of(qualified: str, attribute: str) -> tuple[str, ...] | None:
    """The names in an attribute of class "module:Class" or of its bases, read from the source.

    They are the keys of a dictionary, or the members of a tuple, all of them literals. None if no class has the attribute.
    """
    value = _value_of(*_parts(qualified), attribute)
    if value is None:
        return None
    members = value.keys if isinstance(value, ast.Dict) else getattr(value, "elts", [])
    return tuple(ast.literal_eval(member) for member in members if member is not None)


@cache
def value_of(qualified: str, attribute: str) -> ast.expr | None:
    """The expression that class "module:Class", or a base of it, gives to an attribute; None if none does."""
    return _value_of(*_parts(qualified), attribute)


@cache
def literal_of(qualified: str, attribute: str) -> Any:
    """The literal value of an attribute of class "module:Class" or of its bases; None if no class has it.

    Raises `UnknownNameError` if the value is no literal.
    """
    value = _value_of(*_parts(qualified), attribute)
    return None if value is None else _literal(value, f"{qualified}: {attribute}")


def _literal(value: ast.expr, who: str) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        raise UnknownNameError(
            f"{who} is no literal, but {ast.unparse(value)}: planning runs no code"
        ) from None


def _signature(module: str, name: str) -> tuple[str, ast.FunctionDef] | None:
    """A function, or the __init__ of a class or of its first base that has one; and the module that has it."""
    home, node = _definition(module, name) or (module, None)
    if isinstance(node, ast.ClassDef):
        own = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        bases = (_signature(home, base.id) for base in node.bases if isinstance(base, ast.Name))
        if own is None:
            return next((found for found in bases if found), None)
        if own.args.args[1:]:
            raise UnknownNameError(f"{module}:{name}: arguments are keyword-only: write `*,` after self")
        node = own
    return (home, node) if node else None


@cache
def options_of(qualified: str) -> dict[str, dict[str, Any]]:
    """The keyword-only arguments of class "module:Class" (or a function), read from its source.

    Returns name -> {"default": literal, "type": annotation text, "choices": list or None}. Defaults must be
    literals. The source is parsed, never run.
    """
    found = _signature(*qualified.split(":"))
    if found is None:
        raise UnknownNameError(f"{qualified} is neither a function nor a class with __init__")
    aliases = {
        n.targets[0].id: n.value
        for n in _tree(found[0]).body
        if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
    }
    arguments, options = found[1].args, {}
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        annotation = argument.annotation
        if isinstance(annotation, ast.Name):
            annotation = aliases.get(annotation.id, annotation)
        who = f"{qualified}: the default of {argument.arg}"
        options[argument.arg] = {
            "default": _literal(default, who) if default is not None else None,
            "required": default is None,
            "type": ast.unparse(annotation) if annotation is not None else "Any",
            "choices": _choices(annotation),
        }
    return options


def _choices(annotation: ast.expr | None) -> list[Any] | None:
    """The values of a `Literal[...]` annotation, else None."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in (
        "Literal",
        "typing.Literal",
    ):
        elements = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        return [ast.literal_eval(element) for element in elements]
    return None


_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


def check_options(qualified: str, options: Mapping[str, Any], who: str) -> None:
    """Raise `UnknownNameError` if `options` has a name, a type or a value that "module:Class" does not take."""
    known = options_of(qualified)
    for name, value in options.items():
        if name not in known:
            raise UnknownNameError(f"{who} has no option {name!r}; {suggest(name, list(known))}")
        choices, types = known[name]["choices"], _TYPES.get(known[name]["type"])
        if choices is not None and value not in choices:
            raise UnknownNameError(f"{who}: option {name} is one of {choices}, not {value!r}")
        if types and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            raise UnknownNameError(f"{who}: option {name} is of type {known[name]['type']}, not {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UnknownNameError(f"{who}: option {name} is a finite number, not {value!r}")
        if types == (int,) and value < 0 <= (known[name]["default"] or 0):
            raise UnknownNameError(f"{who}: option {name} is 0 or more, not {value!r}")
