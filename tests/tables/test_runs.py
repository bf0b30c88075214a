"""A missing or wrong run becomes a reason in the table, never a crash."""

from pathlib import Path
from typing import Any

import pytest

from avpipe.plan.experiment import Experiment
from avpipe.plan.study import Study
from avpipe.tables.runs import LONGEST_REASON, notice, read_run, shortened

from .conftest import WriteRun


@pytest.fixture
def experiment(study: Study) -> Experiment:
    features = {"audio": "vggish"}
    return Experiment(
        task="localization", model="avel", features=features, setting="supervised", recipe=study.training
    )


def test_the_number_is_that_of_the_protocol(
    experiment: Experiment, write_run: WriteRun, tmp_path: Path
) -> None:
    write_run(experiment, 0, 0.5)
    run = read_run(tmp_path, experiment, 0)
    assert [run.value(p, "accuracy") for p in ("validation", "last", "best_test")] == [50, 25, 75]


def test_a_metric_is_printed_in_its_own_unit(
    experiment: Experiment, write_run: WriteRun, tmp_path: Path
) -> None:
    units = {"sdr": {"heading": "SDR", "unit": "dB", "higher_is_better": True, "decimals": 2}}
    write_run(experiment, 0, metrics={"last": {"sdr": 7.25, "accuracy": 0.5}}, units=units)
    run = read_run(tmp_path, experiment, 0)
    assert (run.value("last", "sdr"), run.value("last", "accuracy")) == (7.25, 50)


def test_costs_are_in_units_of_their_own(experiment: Experiment, write_run: WriteRun, tmp_path: Path) -> None:
    write_run(experiment, 0, parameters=1_335_246, seconds=2.5)
    run = read_run(tmp_path, experiment, 0)
    assert run.value("validation", "parameters") == pytest.approx(1.335246)  # millions
    assert run.value("last", "seconds") == 2.5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "failed", "reason": "loss became nan"}, "failed: loss became nan"),
        ({"status": "failed"}, "failed: no reason given"),
        ({"status": "almost"}, "metrics.json says neither ok nor failed"),
        ({"metrics": None}, "metrics.json has no metrics"),
        ({"metrics": {"last": {"accuracy": 1.0}}}, "metrics.json has no protocol validation"),
        ({"metrics": {"validation": {"f1": 0.5}}}, "metrics.json gives no accuracy (it has: f1)"),
        ({"metrics": {"validation": {"accuracy": None}}}, "metrics.json gives no accuracy (it has: accuracy)"),
    ],
)  # fmt: skip
def test_each_wrong_record_has_its_reason(
    changes: dict[str, Any], reason: str, experiment: Experiment, write_run: WriteRun, tmp_path: Path
) -> None:
    write_run(experiment, 0, **changes)
    assert read_run(tmp_path, experiment, 0).value("validation", "accuracy") == reason


def test_a_truncated_file_and_a_missing_cost_are_reasons(
    experiment: Experiment, write_run: WriteRun, tmp_path: Path
) -> None:
    path = write_run(experiment, 0, parameters=None) / "metrics.json"
    value = read_run(tmp_path, experiment, 0).value("validation", "parameters")
    assert value == "metrics.json gives no parameters"
    path.write_text(path.read_text()[:40])
    assert "cannot be read" in str(read_run(tmp_path, experiment, 0).value("validation", "accuracy"))


def test_missing_clips_are_counted_by_split(
    experiment: Experiment, write_run: WriteRun, tmp_path: Path
) -> None:
    counts = {"train": 28, "train_named": 30, "val": 8, "val_named": 8, "test": 5, "test_named": 8}
    write_run(experiment, 0, counts=counts)
    assert read_run(tmp_path, experiment, 0).missing_clips() == ["train clips 28 of 30", "test clips 5 of 8"]


def test_a_long_reason_is_one_short_line() -> None:
    assert shortened("a\n  b\tc") == "a b c"
    assert len(shortened("word " * 200)) == LONGEST_REASON


def test_published_weights_on_a_real_dataset_need_no_notice(study: Study, experiment: Experiment) -> None:
    assert notice(study, [experiment]) is None


@pytest.mark.parametrize(
    ("changes", "tag", "text"),
    [
        (  # of two random extractors, the experiment uses one
            {"extractors": {name: {"backbone": name, "weights": "random"} for name in ("vggish", "vgg16")}},
            "RANDOM WEIGHTS", "Random weights in vggish. Not a reproduction of the published numbers.",
        ),
        (
            {"dataset": {"name": "demo", "kind": "demo"}},
            "DEMO", "DEMO: the clips are rendered. Not a reproduction of the published numbers.",
        ),
        (
            {"dataset": {"name": "motion", "kind": "demo_motion"}},
            "DEMO", "DEMO: the clips are rendered. Not a reproduction of the published numbers.",
        ),
        (
            {"notice": "Half of the clips. No reproduction."},
            "NOT A REPRODUCTION", "Half of the clips. No reproduction.",
        ),
    ],
)  # fmt: skip
def test_numbers_that_are_no_reproduction_have_a_notice(
    changes: dict[str, Any], tag: str, text: str, study: Study, experiment: Experiment
) -> None:
    said = notice(Study.model_validate(study.model_dump() | changes), [experiment])
    assert said is not None
    assert (said.tag, said.text) == (tag, text)
