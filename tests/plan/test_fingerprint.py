from collections.abc import Iterator
from pathlib import Path

import pytest

from avpipe.plan import fingerprint

SOURCES = {
    "__init__.py": "",
    "layers.py": '"""Layers."""\n\nKNOWN: registry.Entries[int] = {}\n\ndef attention(x):\n    return x + 1\n',
    "models/__init__.py": (
        "from avpipe.plan import registry\n"
        "MODELS: registry.LazyTable = {'a': 'avpipe.models.a:A'}\n"
        "def create(name):\n    return registry.load(MODELS, name)\n"
    ),
    "models/a.py": "from avpipe.layers import attention\nfrom . import base\n\nclass A:\n    pass\n",
    "models/b.py": "class B:\n    def forward(self):\n        from avpipe import layers\n        return layers\n",
    "models/c.py": "import torch\nC = 1\n",
    "models/base.py": "BASE = 1\n",
    "plan/registry.py": "LazyTable = dict\n",
    "training.py": "from avpipe.models import create\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small package that `fingerprint` takes for avpipe."""
    root = tmp_path / "avpipe"
    for name, text in SOURCES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(fingerprint, "ROOT", root)
    forget()
    yield root
    forget()


def forget() -> None:
    for cached in (fingerprint._tree, fingerprint._imports, fingerprint._module_hash):
        cached.cache_clear()


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))
    forget()


def test_the_closure_follows_imports_of_every_form(package):
    assert {"avpipe.layers", "avpipe.models.base"} <= fingerprint.import_closure("avpipe.models.a")
    assert "avpipe.models.b" not in fingerprint.import_closure("avpipe.models.a")
    assert {"avpipe.layers"} <= fingerprint.import_closure("avpipe.models.b"), (
        "an import inside a function counts"
    )
    assert fingerprint.import_closure("avpipe.models.c") == {"avpipe.models.c"}, "other packages do not count"
    typed = "if TYPE_CHECKING:\n    from avpipe.layers import Layer\n"
    (package / "models" / "c.py").write_text(typed)
    forget()
    assert fingerprint.import_closure("avpipe.models.c") == {"avpipe.models.c"}, "nor imports for editors"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("layers.py", "return x + 1", "return x + 1  # plus one"),
        ("layers.py", "return x + 1", "return (x +\n        1)"),
        ("layers.py", '"""Layers."""', '"""Layers that two papers share."""'),
        ("layers.py", "def attention(x):\n", 'def attention(x):\n    """Add one."""\n'),
        ("models/c.py", "C = 1", "C = 2"),
        ("layers.py", "KNOWN: registry.Entries[int] = {}", "KNOWN: registry.Entries[int] = {'a': 1}"),
        (
            "models/__init__.py",
            "{'a': 'avpipe.models.a:A'}",
            "{'a': 'avpipe.models.a:A', 'c': 'avpipe.models.c:C'}",
        ),
    ],
)
def test_edits_that_change_no_meaning_keep_the_fingerprint(package, name, old, new):
    before = fingerprint.fingerprint("avpipe.models.a", "avpipe.training")
    edit(package, name, old, new)
    assert fingerprint.fingerprint("avpipe.models.a", "avpipe.training") == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("layers.py", "x + 1", "x + 2"),
        ("models/base.py", "BASE = 1", "BASE = 2"),
        ("models/a.py", "class A:\n    pass", "class A:\n    x = 'not a docstring'"),
        ("plan/registry.py", "dict", "list"),
    ],
)
def test_edits_that_change_the_meaning_change_the_fingerprint(package, name, old, new):
    before = fingerprint.fingerprint("avpipe.models.a", "avpipe.training")
    edit(package, name, old, new)
    assert fingerprint.fingerprint("avpipe.models.a", "avpipe.training") != before


def test_an_edited_model_changes_only_its_own_fingerprint(package):
    a, b = (fingerprint.fingerprint(f"avpipe.models.{m}", "avpipe.training") for m in "ab")
    edit(package, "models/b.py", "return layers", "return layers, 1")
    assert fingerprint.fingerprint("avpipe.models.a", "avpipe.training") == a
    assert fingerprint.fingerprint("avpipe.models.b", "avpipe.training") != b


def test_the_order_of_modules_does_not_matter(package):
    assert fingerprint.fingerprint("avpipe.models.a", "avpipe.models.b") == fingerprint.fingerprint(
        "avpipe.models.b", "avpipe.models.a"
    )


def test_an_unknown_module_is_an_error(package):
    with pytest.raises(ModuleNotFoundError, match=r"avpipe\.models\.nothing"):
        fingerprint.fingerprint("avpipe.models.nothing")


def test_the_environment_names_versions_and_machine():
    found = fingerprint.environment()
    assert found["libraries"]["torch"]
    assert found["python"].startswith("3.")
    assert found["cores"] >= 1


def test_data_files_of_a_module_count_as_its_code(package):
    (package / "models/c.py").write_text('C = 1\nDATA_FILES = ("pages/*.txt",)\n')
    (package / "models/pages").mkdir()
    page = package / "models/pages/a.txt"
    page.write_text("one")
    forget()
    first = fingerprint.fingerprint("avpipe.models.c")
    (package / "models/notes.txt").write_text("two")
    forget()
    assert fingerprint.fingerprint("avpipe.models.c") == first
    page.write_text("two")
    forget()
    assert fingerprint.fingerprint("avpipe.models.c") != first


def test_ones_own_code_counts_with_its_package_and_the_files_beside_it(package, tmp_path, monkeypatch):
    files = {
        "mypkg/nets.py": "from . import parts\nfrom beside import B\nfrom avpipe.layers import attention\nimport elsewhere, json",
        "mypkg/parts.py": "A = 1",
        "mypkg/other.py": "O = 1",
        "beside.py": "B = 1",
        "site-packages/elsewhere.py": "E = 1",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    expected = {"mypkg.nets", "mypkg.parts", "beside", "avpipe.layers"}
    assert fingerprint.import_closure("mypkg.nets") == expected
    before = fingerprint.fingerprint("mypkg.nets")
    for name, changes in (("mypkg/other.py", False), ("mypkg/parts.py", True), ("beside.py", True)):
        edit(tmp_path, name, "1", "2")
        assert (fingerprint.fingerprint("mypkg.nets") != before) == changes, name
        edit(tmp_path, name, "2", "1")
