"""A wrong value anywhere in a study is named with its key before any job starts, and without importing torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from avpipe.plan.plan import Plan
from avpipe.plan.section import ConfigError
from avpipe.plan.study import validate_study

ROOT = Path(__file__).resolve().parents[2]
INF, NAN, HUGE = float("inf"), float("nan"), 10**30
LOSSES = "'default', 'cross_entropy', 'soft_margin' or 'binary_cross_entropy'"


def demo(**changes: Any) -> dict[str, Any]:
    """The demo's study with values by their dotted keys, `__` for a dot."""
    study: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())
    for key, value in changes.items():
        *path, last = key.split("__")
        here = study
        for part in path:
            here = here.setdefault(part, {})
        here[last] = value
    return study


def plan(study: dict[str, Any]) -> Plan:
    return Plan(validate_study(study), ROOT / "workflow")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("extractors__vggish__fps", 3, "extractors.vggish.fps: must divide 16, .* found 3"),
        ("extractors__vggish__pooling", "map", "extractors.vggish.pooling: vggish has no spatial map"),
        ("extractors__vggish__seed", 2**64, "extractors.vggish.seed: .*found 18446744073709551616"),
        ("extractors__vggish__batch_size", HUGE, "extractors.vggish.batch_size: "),
        ("extractors__visual_map__image_size", 10**9, "extractors.visual_map.image_size: .*equal to 4096"),
        ("media__preset", "canonic", "media.preset: no preset 'canonic'; did you mean 'canonical'"),
        ("media__timeout", 1e300, "media.timeout: "),
        ("media__timeout", INF, "media.timeout: Input should be a finite number"),
        ("device", "gpu", r"device: .*auto\|cpu\|cuda.*\(found 'gpu'\)"),
        ("device", "cuda:x", "device: .*'cuda:x'"),
        ("dataset__kind", "dmo", "dataset.kind: unknown dataset 'dmo'; did you mean 'demo'"),
        ("dataset__options", {"clps": 3}, "dataset.options: .*no option 'clps'; did you mean 'clips'"),
        ("dataset", {"name": "m", "kind": "demo_motion", "options": {"second": 8}}, "dataset.options: .*did you mean 'seconds'"),
        ("dataset", {"name": "m", "kind": "demo_motion"}, "canonical reads 10 s, but the clips are 6 s long"),
        ("dataset__options", {"clips": -1}, "dataset.options: .*clips is 0 or more, not -1"),
        ("dataset__minimum", {"train": NAN}, "dataset.minimum.train: Input should be a finite number"),
        ("shard_size", HUGE, "shard_size: "),
        ("backbones__visual_mapp", ["supervised"], "backbones: .*did you mean 'visual_map'"),
        ("seeds", [2**64], "seeds.0: .*found 18446744073709551616"),
        ("seeds", [0, -1], "seeds.1: .*found -1"),
        ("training__lr", INF, "training.lr: Input should be a finite number .found inf"),
        ("training__lr", NAN, "training.lr: Input should be a finite number .found nan"),
        ("training__epochs", HUGE, "training.epochs: "),
        ("training__batch_size", HUGE, "training.batch_size: "),
        ("training__momentum", 1.5, "training.momentum: .*less than 1"),
        ("training__milestones", [0], "training.milestones.0: .*equal to 1"),
        ("training__label_smoothing", [0.1, -1], "training.label_smoothing.1: .*equal to 0 .found -1"),
        ("training__loss_weights", {"audio": INF}, "training.loss_weights.audio: .*finite"),
        ("training__loss_weights", {"audoi": 1.0}, "row 'han': recipe.loss_weights: .*did you mean 'audio'"),
        ("training__loss", "cross_entopy", f"training.loss: .*{LOSSES}.*; did you mean 'cross_entropy'"),
        ("training__gate", "modalty", "training.gate: .*'modalty'.; did you mean 'modality'"),
        ("training_of__avin__loss", "margin", f"training_of.avin: loss: .*{LOSSES} .found 'margin'"),
        ("training_of__parsing__pooling", "max", "training_of.parsing.pooling: 'max' .* for localization"),
        ("training_of__avin__gate", "modality", "training_of.avin.gate: .* for parsing and refined_parsing"),
        ("training_of__parsing__refine_epochs", 3, "training_of.parsing.refine_epochs: .* refined_parsing"),
        ("training__refine_epochs", 3, "recipe.refine_epochs: found 3 for the task localization"),
        ("imported", {"a": {"path": "x", "format": "npy", "shape": [10, 8], "pattern": "a.npy"}}, "imported.a.pattern: "),
        ("recipes", {"a": {"lr": INF}}, "recipes.a: lr: .*finite"),
        ("models__avinn", {"hidden_dim": 3}, "models.avinn: unknown model 'avinn'; did you mean 'avin'"),
        ("models__psp__hiden_dim", 3, "models.psp: .*did you mean 'hidden_dim'"),
        ("models__avin__hidden_dim", -1, "models.avin: .*hidden_dim is 0 or more, not -1"),
        ("models__avin__hidden_dim", 0, "models.avin: .*hidden_dim is from 1 to 100000, not 0"),
        ("models__avin__hidden_dim", 10**9, "models.avin: .*hidden_dim is from 1 to 100000, not 1000000000"),
        ("models__avg__layers", 10**9, "models.avg: .*layers is from .* not 1000000000"),
        ("models__tacma__theta", NAN, "models.tacma: .*theta is a finite number, not nan"),
        ("models__han__dropout", 1.5, "models.han: .*dropout is from 0 to 1, not 1.5"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_key_and_what_was_expected(key, value, message):
    with pytest.raises(ConfigError, match=message):
        plan(demo(**{key: value}))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("tables/avin_fusion", {"metrics": {"acuracy": "%"}}, "metrics: .*'acuracy' .*localization; did you mean 'accuracy'"),
        ("tables/avvp_segment", {"metrics": {"accuracy": "%"}}, "metrics: metric 'accuracy' .*by parsing or refined_parsing"),
        ("tables/avin_fusion", {"task": "localisation"}, "unknown task 'localisation'; did you mean 'localization'"),
        ("tables/avvp_segment", {"settings": ["supervised"]}, "row 'han': settings: the task parsing is weakly"),
        ("tables/avin_fusion", {"defaults": {"model": "avin", "features": {"audio": "vggish", "visual": "visual_map"}, "recipe": {"gate": "modality"}}}, "recipe.gate: .* for parsing"),
        ("figures/tacma_theta", {"options": {"option": "theta", "heading": "Acc.", "metric": "acuracy"}}, "options.metric: .*did you mean 'accuracy'"),
    ],
)  # fmt: skip
def test_a_wrong_value_of_a_table_or_figure_is_named_with_its_file(file, changes, message, tmp_path):
    data = yaml.safe_load((ROOT / "workflow" / f"{file}.yaml").read_text())
    for row in data["rows"] if "settings" in changes else ():
        row.pop("published", None)
    (tmp_path / file).parent.mkdir()
    (tmp_path / f"{file}.yaml").write_text(yaml.safe_dump(data | changes))
    kind, name = file.split("/")
    study = demo(tables=[], figures=[]) | {kind: [name]}
    with pytest.raises(ConfigError, match=f"(?s){file}.*{message}"):
        Plan(validate_study(study), tmp_path)


def test_widths_of_roles_may_be_0_and_the_studys_training_may_have_keys_for_one_task_only():
    assert plan(demo(models__han__motion_dim=0, training__gate="modality", training__pooling="max")).tables


def test_planning_the_demo_imports_no_torch():
    code = (
        "import sys, yaml, pathlib; from avpipe.plan.plan import Plan; from avpipe.plan.study import validate_study\n"
        "study = validate_study(yaml.safe_load(pathlib.Path('config.yaml').read_text()))\n"
        "assert Plan(study, pathlib.Path('workflow')).experiments; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
