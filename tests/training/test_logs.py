"""A run prints about twenty lines, and has every epoch in log.csv and TensorBoard."""

import pytest

from avpipe.training.logs import RunLog


def epochs(log: RunLog, first: int, last: int) -> None:
    for epoch in range(first, last + 1):
        log.epoch({"epoch": epoch, "loss": 1 / epoch} | ({"val_accuracy": 0.5} if epoch % 2 == 0 else {}))


def test_about_twenty_lines_a_run_are_printed_and_always_the_last(tmp_path, capsys):
    with RunLog(tmp_path, "avin seed 0", 105, []) as log:
        epochs(log, 1, 105)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "avin seed 0: epoch 105/105  loss 0.009524"
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_log_csv_leaves_missing_values_empty(tmp_path):
    with RunLog(tmp_path, "x", 3, []) as log:
        epochs(log, 1, 3)
        log.write_csv()
    assert (tmp_path / "log.csv").read_text() == (
        "epoch,loss,val_accuracy\n1,1.0,\n2,0.5,0.5\n3,0.3333333333333333,\n"
    )


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_has_each_epoch_once_in_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path, "x", 4, []) as log:
        epochs(log, 1, 3)
    with RunLog(tmp_path, "x", 4, log.rows[:2]) as resumed:  # epoch 3 was not saved
        epochs(resumed, 3, 4)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.3333),
        (4, 0.25),
    ]
    assert [e.step for e in events.Scalars("val_accuracy")] == [2, 4]
