"""What is wrong with a run becomes a reason, never a crash and never a silent hole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avpipe.plan.experiment import Experiment
from avpipe.plan.study import Study
from avpipe.tables.runs import LONGEST_REASON, notice, read_run, shortened


@pytest.fixture
def experiment(study: Study) -> Experiment:
    return Experiment(
        task="localization",
        model="avel",
        features={"audio": "vggish"},
        setting="supervised",
        recipe=study.training,
    )


def test_the_number_is_that_of_the_asked_protocol(
    experiment: Experiment, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    write_run(experiment, 0, 0.5)
    run = read_run(tmp_path, experiment, 0)
    assert [run.value(p, "accuracy") for p in ("validation", "last", "best_test")] == [50, 25, 75]


def test_costs_are_in_units_of_their_own(
    experiment: Experiment, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    write_run(experiment, 0, 0.5, parameters=1_335_246, seconds=2.5)
    write_run(experiment, 1, 0.5, parameters=None)
    run = read_run(tmp_path, experiment, 0)
    assert run.value("validation", "parameters") == pytest.approx(1.335246)  # millions
    assert run.value("last", "seconds") == 2.5
    without = read_run(tmp_path, experiment, 1)
    assert without.value("validation", "parameters") == "metrics.json gives no parameters"


def test_a_run_that_is_not_there_says_so(experiment: Experiment, tmp_path: Path) -> None:
    assert (
        read_run(tmp_path, experiment, 0).value("validation", "accuracy")
        == "no run yet (metrics.json is missing)"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "failed", "reason": "loss became nan"}, "failed: loss became nan"),
        ({"status": "failed"}, "failed: no reason given"),
        ({"status": "almost"}, "metrics.json says neither ok nor failed"),
        ({"metrics": None}, "metrics.json has no metrics"),
        ({"metrics": {"last": {"accuracy": 1.0}}}, "metrics.json has no protocol validation"),
        ({"metrics": {"validation": {"f1": 0.5}}}, "metrics.json gives no accuracy (it has: f1)"),
        (
            {"metrics": {"validation": {"accuracy": None}}},
            "metrics.json gives no accuracy (it has: accuracy)",
        ),
    ],
)
def test_each_thing_that_can_be_wrong_has_its_reason(
    changes: dict[str, Any],
    reason: str,
    experiment: Experiment,
    write_run: Callable[..., Path],
    tmp_path: Path,
) -> None:
    write_run(experiment, 0, 0.5, **changes)
    assert read_run(tmp_path, experiment, 0).value("validation", "accuracy") == reason


def test_a_file_cut_off_in_the_middle_is_a_reason(
    experiment: Experiment, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_run(experiment, 0, 0.5) / "metrics.json"
    path.write_text(path.read_text()[:40])
    value = read_run(tmp_path, experiment, 0).value("validation", "accuracy")
    assert isinstance(value, str)
    assert value.startswith("metrics.json cannot be read:")


def test_missing_clips_are_counted_by_split(
    experiment: Experiment, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    write_run(
        experiment,
        0,
        0.5,
        counts={"train": 28, "train_named": 30, "val": 8, "val_named": 8, "test": 5, "test_named": 8},
    )
    assert read_run(tmp_path, experiment, 0).missing_clips() == ["train clips 28 of 30", "test clips 5 of 8"]


def test_a_long_reason_is_one_short_line() -> None:
    assert shortened("a\n  b\tc") == "a b c"
    assert len(shortened("word " * 200)) == LONGEST_REASON


def changed(study: Study, **parts: Any) -> Study:
    return Study.model_validate(study.model_dump() | parts)


def test_published_weights_on_a_real_dataset_need_no_notice(study: Study, experiment: Experiment) -> None:
    assert notice(study, [experiment]) is None


def test_random_weights_are_named_but_only_those_in_use(study: Study, experiment: Experiment) -> None:
    extractors = {name: {"backbone": name, "weights": "random"} for name in ("vggish", "vgg16")}
    said = notice(changed(study, extractors=extractors), [experiment])
    assert said is not None
    assert said.tag == "RANDOM WEIGHTS"
    assert said.text == "Random weights in vggish. Not a reproduction of the published numbers."


def test_the_demo_says_so(study: Study, experiment: Experiment) -> None:
    said = notice(changed(study, dataset={"name": "demo", "kind": "demo"}), [experiment])
    assert said is not None
    assert said.tag == "DEMO"
    assert "Not a reproduction" in said.text


def test_the_studys_own_words_come_first(study: Study, experiment: Experiment) -> None:
    said = notice(changed(study, notice="Half of the clips. No reproduction."), [experiment])
    assert said is not None
    assert (said.tag, said.text) == ("NOT A REPRODUCTION", "Half of the clips. No reproduction.")
