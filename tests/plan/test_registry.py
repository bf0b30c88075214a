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

class Base:
    names: dict[str, object] = {"a": Kind, "b": object()}

class Derived(Base):
    others = ("c",)

def function(path, *, clips: int = 2, name: str):
    raise RuntimeError("never run")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "lazy_example.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.source_of.cache_clear()
    for cached in (registry._tree, registry.options_of, registry.value_of):
        cached.cache_clear()
    return "lazy_example"


def test_options_are_read_without_running_the_module(module):
    options = registry.options_of(f"{module}:Model")
    defaults = {name: facts["default"] for name, facts in options.items()}
    assert defaults == {"width": 3, "kind": "a", "rate": 0.5, "flag": False}
    assert options["kind"]["choices"] == ["a", "b"]
    assert module not in sys.modules
    assert registry.options_of(f"{module}:function")["name"]["required"]


def test_names_in_a_class_attribute_are_read_without_running_the_module(module):
    assert registry.names_of(f"{module}:Derived", "names") == ("a", "b")
    assert registry.names_of(f"{module}:Derived", "others") == ("c",)
    assert registry.names_of(f"{module}:Base", "others") is None
    assert registry.names_of("avpipe.training.refined_parsing:RefinedParsing", "settings") == (
        "weakly-supervised",
    )
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widht": 3}, "did you mean 'width'"),
        ({"width": "3"}, "of type int"),
        ({"width": True}, "of type int"),
        ({"kind": "c"}, r"one of \['a', 'b'\]"),
        ({"flag": 1}, "of type bool"),
        ({"width": -1}, "width is 0 or more"),
        ({"rate": float("nan")}, "rate is a finite number"),
    ],
)
def test_wrong_options_are_named(module, options, message):
    with pytest.raises(registry.UnknownNameError, match=message):
        registry.check_options(f"{module}:Model", options, "model 'm'")


def test_right_options_pass(module):
    registry.check_options(f"{module}:Model", {"width": 4, "kind": "b", "rate": 1, "flag": True}, "model 'm'")


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(registry.UnknownNameError, match="did you mean 'avel'"):
        registry.target({"avel": "x:Y", "dam": "x:Z"}, "avil", "model")


@pytest.mark.parametrize(
    ("imported", "heavy"),
    [
        ("avpipe", "torch torchvision pandas numpy zarr snakemake decord"),
        ("avpipe.plan.plan, avpipe.datasets.manifest", "torch torchvision pandas zarr decord numpy pyarrow"),
    ],
    ids=["avpipe", "planning"],
)
def test_light_modules_import_nothing_heavy(imported, heavy):
    code = f"import sys, {imported}; print({{*{heavy.split()}}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
