import subprocess
import sys
from pathlib import Path

import pytest

from avpipe.plan import registry

MODULE = """
from typing import Literal

Kind = Literal["a", "b"]

class Model:
    def __init__(self, *, width: int = 3, kind: Kind = "a", rate: float = 0.5, flag: bool = False):
        raise RuntimeError("never run")

def function(path, *, clips: int = 2, name: str):
    raise RuntimeError("never run")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "lazy_example.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.source_of.cache_clear()
    registry.options_of.cache_clear()
    return "lazy_example"


def test_options_are_read_without_running_the_module(module: str) -> None:
    options = registry.options_of(f"{module}:Model")
    assert {name: facts["default"] for name, facts in options.items()} == {
        "width": 3,
        "kind": "a",
        "rate": 0.5,
        "flag": False,
    }
    assert options["kind"]["choices"] == ["a", "b"]
    assert module not in sys.modules
    assert registry.options_of(f"{module}:function")["name"]["required"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widht": 3}, "did you mean 'width'"),
        ({"width": "3"}, "of type int"),
        ({"width": True}, "of type int"),
        ({"kind": "c"}, r"one of \['a', 'b'\]"),
        ({"flag": 1}, "of type bool"),
    ],
)
def test_wrong_options_are_named(module: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(registry.UnknownNameError, match=message):
        registry.check_options(f"{module}:Model", options, "model 'm'")


def test_right_options_pass(module: str) -> None:
    registry.check_options(f"{module}:Model", {"width": 4, "kind": "b", "rate": 1, "flag": True}, "model 'm'")


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(registry.UnknownNameError, match="unknown model 'avil'; did you mean 'avel'"):
        registry.target({"avel": "x:Y", "dam": "x:Z"}, "avil", "model")


def test_planning_imports_neither_torch_nor_pandas() -> None:
    code = (
        "import sys, avpipe.plan.plan, avpipe.datasets.manifest\n"
        "print([m for m in ('torch', 'torchvision', 'pandas', 'zarr', 'decord') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
