"""Tables from a name to the code behind it, read without importing that code.

The Snakefile must know every dataset, extractor and model and check their options, and must not pay for
importing torch; and a run's code fingerprint (`avpipe.plan.fingerprint`) must not change because another model
was added to a table. So a table holds strings, and options are read from the source by `ast`.
"""

import ast
import difflib
import importlib
import importlib.util
import math
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
    """The entry of `name`, in a `LazyTable` "module:attribute". Raises `UnknownNameError` with a suggestion."""
    if name not in table:
        raise UnknownNameError(f"unknown {kind} {name!r}; {suggest(name, list(table))}")
    return table[name]


def load(table: LazyTable, name: str, kind: str) -> Any:
    """Import the module of `name` and return the attribute."""
    module, attribute = target(table, name, kind).split(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def source_of(module: str) -> Path:
    """The file of `module`, found without running it (its parent packages are imported)."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise UnknownNameError(f"no module {module}")
    return Path(spec.origin)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(source_of(module).read_text(encoding="utf-8"))


def names_of(qualified: str, attribute: str) -> tuple[str, ...] | None:
    """The names in an attribute of class "module:Class" or of its bases, read from the source.

    They are the keys of a dictionary, or the members of a tuple, all of them literals. None if no class has the attribute.
    """
    value = value_of(qualified, attribute)
    if value is None:
        return None
    members = value.keys if isinstance(value, ast.Dict) else getattr(value, "elts", [])
    return tuple(ast.literal_eval(member) for member in members if member is not None)


@cache
def value_of(qualified: str, attribute: str) -> ast.expr | None:
    """The expression that class "module:Class", or a base of it in the same package or in avpipe, gives to an attribute; None if none does."""
    module, name = qualified.split(":")
    tree = _tree(module)
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if node is None:
        imports = (
            n for n in tree.body if isinstance(n, ast.ImportFrom) and name in {a.name for a in n.names}
        )
        known = (module.split(".")[0], "avpipe")
        home = next((n.module for n in imports if n.module and n.module.split(".")[0] in known), None)
        return value_of(f"{home}:{name}", attribute) if home else None
    for n in node.body:
        if isinstance(n, ast.Assign | ast.AnnAssign) and n.value is not None:
            given = n.targets if isinstance(n, ast.Assign) else [n.target]
            if attribute in [ast.unparse(each) for each in given]:
                return n.value
    bases = (value_of(f"{module}:{b.id}", attribute) for b in node.bases if isinstance(b, ast.Name))
    return next((value for value in bases if value is not None), None)


@cache
def options_of(qualified: str) -> dict[str, dict[str, Any]]:
    """The keyword-only arguments of class "module:Class" (or a function), read from its source.

    Returns name -> {"default": literal, "type": annotation text, "choices": list or None}. Defaults must be
    literals. The source is parsed, never run.
    """
    module, attribute = qualified.split(":")
    tree = _tree(module)
    node = next((n for n in tree.body if getattr(n, "name", None) == attribute), None)
    if isinstance(node, ast.ClassDef):
        node = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if not isinstance(node, ast.FunctionDef):
        raise UnknownNameError(f"{qualified} is neither a function nor a class with __init__")
    aliases = {
        n.targets[0].id: n.value
        for n in tree.body
        if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
    }
    options = {}
    for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        annotation = argument.annotation
        if isinstance(annotation, ast.Name):
            annotation = aliases.get(annotation.id, annotation)
        options[argument.arg] = {
            "default": ast.literal_eval(default) if default is not None else None,
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
        if types == (int,) and value < 0 <= known[name]["default"]:
            raise UnknownNameError(f"{who}: option {name} is 0 or more, not {value!r}")
