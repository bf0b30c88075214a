"""Fingerprints of code, which Snakemake compares, and the versions and machine that every result records.

Snakemake does not see that an imported module was edited. So each rule carries
`params: code=fingerprint("avpipe.features.vggish", ...)`: a hash of the syntax trees of those modules and of
everything in avpipe, or of a person's own code (`avpipe.plan.registry.belongs`), that they import, transitively. Comments, docstrings and formatting do not count; neither
do the tables `avpipe.plan.registry.LazyTable` and `Entries`, so that adding a model or a backbone does not make the others
stale: a job names the modules of its own model instead. A module that reads files beside it names them, relative to its
folder, in a literal `DATA_FILES = ("templates/*.jinja",)`; their bytes count as its code.
"""

import ast
import hashlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from avpipe import __version__
from avpipe.plan import registry

PACKAGE = "avpipe"
ROOT = Path(__file__).parent.parent


def fingerprint(*modules: str) -> str:
    """Sixteen hex digits that change when the meaning of `modules`, or of what they import of ours, changes.

    Args:
        modules: dotted names, for example "avpipe.models.avin". Nothing is imported or run.

    Raises:
        ModuleNotFoundError: if a named module does not exist.
        SyntaxError: if a source file does not parse.
    """
    names = import_closure(*modules)
    text = "".join(f"{name}:{_module_hash(name)};" for name in sorted(names))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def import_closure(*modules: str) -> set[str]:
    """The named modules and all that they import of ours, directly or not, wherever in their source."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(_imports(name) - found)
    return found


def _path(module: str) -> Path | None:
    """The source file of a dotted name, or None if it names no module (but an attribute)."""
    if module.split(".")[0] != PACKAGE:
        return registry.file_of(module)
    base = ROOT.joinpath(*module.split(".")[1:])
    if base.with_suffix(".py").is_file() and base != ROOT:
        return base.with_suffix(".py")
    return base / "__init__.py" if (base / "__init__.py").is_file() else None


@cache
def _tree(module: str) -> ast.Module:
    path = _path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module} in {ROOT} or on Python's path")
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def _imports(module: str) -> set[str]:
    """The modules of ours that `module` imports; `from package import name` counts both where both are modules."""
    path = _path(module)
    package = module if path and path.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in _blocks(_tree(module), typing=False):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = registry.imported_from(node, package)
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return {name for name in names if registry.belongs(name, module) and _path(name) is not None}


def _blocks(tree: ast.Module, typing: bool = True) -> Iterator[ast.AST]:
    """The nodes that hold statements; with `typing: False` without `if TYPE_CHECKING:`, whose imports are for editors."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if typing or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            for inner in ("body", "orelse", "finalbody", "handlers", "cases"):
                waiting.extend(getattr(node, inner, ()))


@cache
def _module_hash(module: str) -> str:
    tree = _tree(module)
    for node in _blocks(tree):
        _reduce(node)
    digest = hashlib.sha256(ast.dump(tree).encode())
    for path in _data_files(module):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _data_files(module: str) -> list[Path]:
    """The files that match the module's `DATA_FILES`, sorted."""
    path = _path(module)
    patterns = [
        pattern
        for node in _tree(module).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DATA_FILES"
        for pattern in ast.literal_eval(node.value)
    ]
    return sorted(file for pattern in patterns if path for file in path.parent.glob(pattern))


def _reduce(node: ast.AST) -> None:
    """Drop lazy tables, and the node's docstring, which both mean nothing to a job."""
    for inner in ("body", "orelse", "finalbody"):
        if statements := getattr(node, inner, None):
            setattr(node, inner, [statement for statement in statements if not _is_table(statement)])
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
        first = node.body[0]
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            node.body = node.body[1:] or [ast.Pass()]


def _is_table(statement: ast.AST) -> bool:
    if not isinstance(statement, ast.AnnAssign) or statement.value is None:
        return False
    return ast.unparse(statement.annotation).partition("[")[0].rpartition(".")[2] in ("LazyTable", "Entries")


LIBRARIES = (
    "numpy",
    "torch",
    "torchvision",
    "torchaudio",
    "torchvggish",
    "decord",
    "av",
    "zarr",
    "pandas",
    "pyarrow",
    "snakemake",
)


def environment() -> dict[str, Any]:
    """Versions and machine behind a result: avpipe, Python, libraries, processor, cores, GPU if torch is loaded."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    found: dict[str, Any] = {
        "avpipe": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "libraries": versions,
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
