"""A saved state is used for exactly the run that saved it."""

import torch

from avpipe.training.resume import States

IDENTITY = {"seed": 0, "code": "a", "experiment": {"model": "avin"}}


def test_a_saved_state_is_loaded_unchanged(tmp_path):
    state = {"weights": torch.randn(3), "rows": [{"epoch": 1, "loss": 0.1}], "reason": None}
    States(tmp_path, IDENTITY).save((1, 0), state)
    back = States(tmp_path, dict(IDENTITY)).load()
    assert torch.equal(back["weights"], state["weights"])
    assert (back["rows"], back["reason"]) == (state["rows"], None)


def test_a_state_of_another_run_is_refused_and_the_difference_named(tmp_path, capsys):
    States(tmp_path, IDENTITY).save((1, 0), {})
    assert States(tmp_path, {**IDENTITY, "seed": 1, "code": "b"}).load() is None
    assert "belongs to another code, seed" in capsys.readouterr().err


def test_without_a_file_there_is_no_state(tmp_path):
    assert States(tmp_path / "none", IDENTITY).load() is None


def test_an_unreadable_file_is_reported(tmp_path, capsys):
    for content in (b"", b"text"):
        (tmp_path / "s.pt").write_bytes(content)
        assert States(tmp_path, IDENTITY).load() is None
        assert "cannot be read" in capsys.readouterr().err


def test_loading_runs_no_code_from_the_file(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    torch.save({"identity": IDENTITY, "state": Evil()}, tmp_path / "s.pt")
    assert States(tmp_path, IDENTITY).load() is None
    assert not (tmp_path / "made").exists()
