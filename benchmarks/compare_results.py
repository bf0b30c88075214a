"""Compares the numbers of two results folders, run by run: `python benchmarks/compare_results.py results/a results/b`.

Prints every number of a metrics.json that differs by more than --tolerance, and runs that only one folder has. Exits
with 1 if there is any. Times, logs, versions and code fingerprints are not compared, nor a checkpoint that only one run
reports (since 2026-11 "best_test" is evaluated under that protocol only).
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMPARED = ("status", "counts", "parameters", "epochs", "metrics", "baselines")


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested mappings with its path."""
    if isinstance(value, dict):
        for key in value:
            yield from numbers(value[key], f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def read_runs(results: Path) -> dict[str, dict[str, Any]]:
    """Run -> its compared numbers."""
    files = sorted(results.glob("runs/*/seed*/metrics.json"))
    if not files:
        sys.exit(f"{results} has no runs/*/seed*/metrics.json")
    records = ((file, json.loads(file.read_text(encoding="utf-8"))) for file in files)
    return {
        f"{file.parent.parent.name}/{file.parent.name}": dict(
            numbers({key: record.get(key) for key in COMPARED})
        )
        for file, record in records
    }


def differs(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two leaves are unequal; two numbers: by more than `tolerance`."""
    if isinstance(a, float | int) and isinstance(b, float | int):
        return not (math.isnan(a) and math.isnan(b)) and not abs(a - b) <= tolerance
    return bool(a != b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", nargs=2, type=Path)
    parser.add_argument("--tolerance", type=float, default=0.0)
    chosen = parser.parse_args()
    first, second = (read_runs(folder) for folder in chosen.folders)
    bad = sorted(set(first) ^ set(second))
    for run in bad:
        print(f"{run}: only in {chosen.folders[0] if run in first else chosen.folders[1]}")
    unequal = 0
    for run in sorted(set(first) & set(second)):
        a, b = first[run], second[run]
        for key in {*a} ^ {*b}:
            if key.startswith(("metrics.best_test", "epochs.best_test")):
                (a if key in a else b).pop(key)
        for key in sorted(set(a) | set(b)):
            if differs(a.get(key), b.get(key), chosen.tolerance):
                unequal += 1
                print(f"{run}: {key}: {a.get(key)} and {b.get(key)}")
    both = len(set(first) & set(second))
    print(f"{both} runs in both folders, {unequal} unequal numbers, {len(bad)} runs in one folder only")
    sys.exit(bool(unequal or bad))


if __name__ == "__main__":
    main()
