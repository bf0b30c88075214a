"""A saved state is used for exactly the run that saved it."""

import torch

from avpipe.training.resume import load_state, save_state

IDENTITY = {"seed": 0, "code": "a", "experiment": {"model": "avin"}}


def test_a_saved_state_is_loaded_unchanged(tmp_path):
    state = {"weights": torch.randn(3), "rows": [{"epoch": 1, "loss": 0.1}], "reason": None}
    save_state(tmp_path / "seed0.pt", IDENTITY, state)
    back, problem = load_state(tmp_path / "seed0.pt", dict(IDENTITY))
    assert problem == ""
    assert torch.equal(back["weights"], state["weights"])
    assert (back["rows"], back["reason"]) == (state["rows"], None)


def test_a_state_of_another_run_is_refused_and_the_difference_named(tmp_path):
    save_state(tmp_path / "s.pt", IDENTITY, {})
    state, problem = load_state(tmp_path / "s.pt", {**IDENTITY, "seed": 1, "code": "b"})
    assert state is None
    assert problem.endswith("belongs to another code, seed")


def test_without_a_file_there_is_no_state(tmp_path):
    assert load_state(tmp_path / "s.pt", IDENTITY) == (None, "")


def test_an_unreadable_file_is_reported(tmp_path):
    for content in (b"", b"text"):
        (tmp_path / "s.pt").write_bytes(content)
        state, problem = load_state(tmp_path / "s.pt", IDENTITY)
        assert state is None
        assert "cannot be read" in problem


def test_loading_runs_no_code_from_the_file(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    torch.save({"identity": IDENTITY, "state": Evil()}, tmp_path / "s.pt")
    assert load_state(tmp_path / "s.pt", IDENTITY)[0] is None
    assert not (tmp_path / "made").exists()
