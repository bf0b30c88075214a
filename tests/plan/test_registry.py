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

class Inherits(Model):
    pass

class Positional:
    def __init__(self, width: int = 3):
        pass

class Computed:
    def __init__(self, *, width: int = len("abc")):
        pass

def function(path, *, clips: int = 2, name: str):
    raise RuntimeError("never run")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "lazy_example.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))

    for cached in (registry._tree, registry.options_of, registry.names_of):
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


def test_a_name_of_ones_own_code_is_found_in_the_current_folder_and_only_loading_runs_it(
    tmp_path, monkeypatch
):
    package = tmp_path / "ownpackage" / "deep"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("raise RuntimeError('never run while planning')")
    (package / "nets.py").write_text("from .parts import Net\nimport torch")
    (package / "parts.py").write_text(MODULE.replace("Model", "Net") + "\nanswer = 42")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = "ownpackage.deep.nets:Net"
    assert registry.target({"avel": "x:Y"}, name, "model") == name
    assert registry.options_of(name)["width"]["default"] == 3
    with pytest.raises(RuntimeError, match="never run while planning"):
        registry.load({}, name, "model")
    (package.parent / "__init__.py").write_text("")
    (package / "nets.py").write_text("from .parts import Net")
    assert registry.load({}, name, "model").__module__ == "ownpackage.deep.parts"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lazy_exampel:Model",
            "model 'lazy_exampel:Model': no file lazy_exampel.py in /.*nor on Python's path",
        ),
        ("lazy_example:Modle", "lazy_example.py has no class or function Modle; did you mean 'Model'"),
        ("../lazy_example:Model", "write package.module:Class"),
        ("lazy_example:Mödel", "write package.module:Class"),
        ("broken_example:Model", "broken_example.py is no valid Python: .*line 1"),
    ],
)
def test_wrong_names_of_ones_own_code_are_one_clear_line(module, tmp_path, name, message):
    (tmp_path / "broken_example.py").write_text("class Model")
    with pytest.raises(registry.UnknownNameError, match=message) as error:
        registry.target({"avel": "x:Y"}, name, "model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Positional", "arguments are keyword-only: write `\\*,` after self"),
        ("Computed", r"the default of width is no literal, but len\('abc'\)"),
    ],
)
def test_options_that_cannot_be_read_from_the_source_are_named(module, name, message):
    with pytest.raises(registry.UnknownNameError, match=message):
        registry.options_of(f"{module}:{name}")


def test_a_class_without_options_of_its_own_has_those_of_its_base(module):
    assert registry.options_of(f"{module}:Inherits") == registry.options_of(f"{module}:Model")
