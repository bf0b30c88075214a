"""What a training asks for, against what was measured (benchmarks/README.md)."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from avpipe.files import write_json
from avpipe.plan.experiment import Experiment
from avpipe.plan.plan import Plan
from avpipe.plan.recipe import Recipe
from avpipe.plan.resources import Training
from avpipe.plan.study import validate_study

WORKFLOW = Path(__file__).resolve().parents[2] / "workflow"
MAPS = 10 * 128 + 10 * 7 * 7 * 512  # numbers of a clip: VGGish and VGG-19's maps, 1.0 MB in float32


def psp(clips: int, **recipe: int) -> Training:
    experiment = Experiment(
        task="localization",
        model="psp",
        features={"audio": "a", "visual": "v"},
        setting="supervised",
        recipe=Recipe(**recipe),
    )
    return Training(experiment, 1, clips, MAPS, 2 * MAPS)


def test_a_full_size_training_asks_for_what_it_was_measured_to_take_and_not_for_twice_that():
    asked = psp(3_341, epochs=300)
    assert asked.features_mb == 3_341 * 2 * MAPS // 10**6 + 1 == 1685
    assert 3.0 * 2**30 < asked.memory_mb * 10**6 < 2 * 3.0 * 2**30
    assert 3.2 * 60 < asked.minutes < 3 * 3.2 * 60
    assert asked.gpu_percent == 50


def test_a_larger_batch_takes_more_memory_and_more_epochs_more_time():
    more = 384 * 4 * MAPS / 10**6  # the further clips of a batch, in float32
    assert psp(3_341, batch_size=512).memory_mb > psp(3_341).memory_mb + 8 * more
    assert psp(3_341, batch_size=512).gpu_percent == 100
    assert psp(3_341, epochs=600).minutes == 2 * psp(3_341, epochs=300).minutes


def test_the_plan_knows_a_trainings_needs_once_the_manifest_has_counted_the_clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = yaml.safe_load((WORKFLOW / "configs" / "quick.yaml").read_text())
    plan = Plan(validate_study(quick), WORKFLOW)
    run = SimpleNamespace(experiment=next(name for name in plan.experiments if name.startswith("avin")))
    first = plan.training_memory(run, attempt=1)
    assert 1_050 < first < 2 * 1_050, "1.05 GB were measured"
    write_json(tmp_path / "results" / "quick" / "manifest.json", {"clips": 20_000})
    numbers = 10 * 128 + 10 * 3 * 3 * 512
    features = 20_000 * 4 * numbers // 10**6
    second = plan.training_memory(run, attempt=1)
    assert features < second - first + 100 < features + 200
    assert plan.training_memory(run, attempt=2) == 2 * second
    assert plan.feature_memory(run, SimpleNamespace(mem_mb=second)) == features + 1
    assert plan.feature_memory(run, SimpleNamespace(mem_mb=0)) == 0
    assert plan.training_gpu_asked(run) == 0, "the study asks for no GPU"


@pytest.mark.parametrize(
    ("numbers", "threads"), [(10 * 64 * 64 * 3 + 160_000, 1), (10 * 256 * 256 * 3 + 160_000, 8)]
)
def test_trainings_from_small_clips_run_side_by_side(numbers, threads):
    experiment = Experiment(
        task="barlow_twins", model="avbt", preset="canonical", setting="self-supervised", recipe=Recipe()
    )
    assert Training(experiment, 1, 100, numbers, 0).threads == threads


@pytest.mark.parametrize(("clips", "kept"), [(240, 240 * 734_000 // 10**6), (2000, 0)])
def test_clips_that_fit_into_a_gigabyte_are_kept_in_memory(clips, kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = yaml.safe_load((WORKFLOW / "configs" / "demo_motion.yaml").read_text())
    plan = Plan(validate_study(study), WORKFLOW)
    assert (plan.presets[0].frames, plan.presets[0].samples) == (90, 48_000)
    write_json(tmp_path / "results" / "demo_motion" / "manifest.json", {"clips": clips})
    run = SimpleNamespace(experiment=next(iter(plan.experiments)))
    memory = plan.training_memory(run, attempt=1)
    assert plan.feature_memory(run, SimpleNamespace(mem_mb=memory)) == kept + 1
