"""What a study's plan needs: which features are extracted, which are imported, whether any clip is fetched."""

import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from avpipe.files import write_json
from avpipe.plan import plan as plan_module
from avpipe.plan.experiment import Experiment
from avpipe.plan.plan import Plan
from avpipe.plan.section import ConfigError
from avpipe.plan.study import resolve, validate_study

AVIN_FUSION = SimpleNamespace(table="avin_fusion")  # the wildcards of that table's path
WORKFLOW = Path(__file__).resolve().parents[2] / "workflow"


def plan(**study: Any) -> Plan:
    return Plan(validate_study(study), WORKFLOW)


def study_file(name: str) -> dict[str, Any]:
    return yaml.safe_load((WORKFLOW / "configs" / f"{name}.yaml").read_text())


IMPORTED = {
    "dataset": {"name": "d", "kind": "ave", "annotations": "data"},
    "imported": {
        "a": {"path": "a.h5", "format": "h5", "shape": [10, 128]},
        "unused": {"path": "v.h5", "format": "h5", "shape": [10, 7, 7, 512]},
    },
    "features": ["a"],
}


def test_a_preset_may_read_less_than_a_clip_never_more():
    def folder(**options: Any) -> Plan:
        return plan(dataset={"name": "d", "kind": "folder", "options": options})

    for options in ({}, {"window": 10}, {"window": 30, "stride": 10}, {"window": 0}):
        assert folder(**options).needs_media
    with pytest.raises(ConfigError, match=r"canonical reads 10 s.*5 s"):
        folder(window=5)


@pytest.mark.parametrize("name", ["ave_features", "llp_features"])
def test_the_studies_of_published_features_fetch_nothing(name):
    found = plan(**study_file(name))
    assert found.tables
    assert found.features == found.imports
    assert found.extractors == []
    assert not found.needs_media


def test_an_imported_feature_has_the_path_of_an_extracted_one(tmp_path):
    found = plan(**IMPORTED)
    assert found.imports == found.features == ["a"]
    assert found.bundles == []
    assert found.chunk("a", 3) == "results/d/features/a.zarr/c/3/0/0"


def test_clips_are_needed_for_extraction_figures_and_folder_studies():
    both = {**IMPORTED, "extractors": {"v": {"backbone": "vggish"}}}
    assert plan(**{**both, "features": ["a", "v"]}).needs_media
    assert not plan(**both).needs_media  # v is not asked for
    assert plan(dataset={"name": "d", "kind": "folder"}).needs_media
    shown = study_file("ave_features") | {"figures": ["avin_segments"]}
    assert plan(**shown).needs_media


def test_rows_of_an_h5_file_are_by_default_those_of_aves_annotations():
    assert plan(**IMPORTED).imported("a").rows == "data/Annotations.txt"
    named = {"a": {**IMPORTED["imported"]["a"], "rows": "all.txt"}}
    assert plan(**{**IMPORTED, "imported": named}).imported("a").rows == "all.txt"
    other = {**IMPORTED, "dataset": {"name": "d", "kind": "llp", "annotations": "data"}}
    assert plan(**other).imported("a").rows is None


def test_the_part_of_a_study_for_a_table_is_a_valid_study():
    found = plan(**study_file("ave_features"))
    part = json.loads(found.table_study(AVIN_FUSION))
    assert set(part["imported"]) == {"vggish", "visual_map"}
    assert validate_study(part).arrays.keys() == part["imported"].keys()
    extracted = plan(**study_file("ave"))
    assert "imported" not in json.loads(extracted.table_study(AVIN_FUSION))


def test_the_part_of_a_study_for_a_table_keeps_options_that_choose_clips_only():
    cleaned = study_file("ave_features")
    cleaned["dataset"]["options"] = {"conflicts": "drop"}
    found = plan(**cleaned)
    assert json.loads(found.table_study(AVIN_FUSION))["dataset"]["options"] == {"conflicts": "drop"}
    demo = plan(**yaml.safe_load((WORKFLOW.parent / "config.yaml").read_text()))
    assert json.loads(demo.table_study(AVIN_FUSION))["dataset"]["options"] == {}


def test_pretraining_of_an_experiment_is_trained_first(tmp_path):
    (tmp_path / "tables").mkdir()
    before = {"model": "avg", "features": {"audio": "a", "visual": "p"}, "recipe": "long"}
    rows = [
        {"row": "han", "method": "HAN", "model": "han"},
        {"row": "avg", "method": "AVG", "model": "avg_parser", "pretraining": before},
    ]
    table = {
        "title": "T", "paper": "P", "printed": "here", "task": "parsing", "metrics": {"segment_type": "Type"},
        "settings": ["weakly-supervised"], "defaults": {"features": {"audio": "a", "visual": "v"}}, "rows": rows,
    }  # fmt: skip
    (tmp_path / "tables" / "small.yaml").write_text(yaml.safe_dump(table))
    study = {
        "dataset": {"name": "d", "kind": "llp", "annotations": "data"},
        "extractors": {"a": {"backbone": "vggish"}, "v": {"backbone": "resnet18"}, "p": {"backbone": "resnet18", "weights": "random"},
                       "q": {"backbone": "resnet18", "seed": 2}},
        "recipes": {"long": {"epochs": 500}},
        "models": {"avg": {"layers": 3}, "avg@p": {"heads": 2}, "avg@q": {"heads": 1}, "avel": {"hidden_dim": 3}},
        "tables": ["small"],
        "seeds": [0, 4],
    }  # fmt: skip
    found = Plan(validate_study(study), tmp_path)
    by_model = {experiment.model: experiment for experiment in found.experiments.values()}
    assert set(by_model) == {"han", "avg_parser", "avg"}
    assert found.extractors == ["a", "v", "p"]
    runs = f"results/d/runs/{by_model['avg'].id}"
    started = [f"{runs}/seed0/checkpoint.pt", f"{runs}/seed4/checkpoint.pt"]
    assert found.checkpoints_before(by_model["avg_parser"], (0, 4)) == started
    assert found.checkpoints_before(by_model["avg_parser"], (4,)) == started[1:]
    assert [found.checkpoints_before(by_model[name], (0, 4)) for name in ("han", "avg")] == [[], []]
    part = json.loads(found.table_study(SimpleNamespace(table="small")))
    assert set(part["extractors"]) == {"a", "v", "p"}
    assert set(part["recipes"]) == {"long"}
    assert set(part["models"]) == {"avg", "avg@p"}
    assert validate_study(part)
    before["dataset"] = "audioset"
    (tmp_path / "tables" / "small.yaml").write_text(yaml.safe_dump(table))
    elsewhere = Plan(validate_study(study), tmp_path)
    by_model = {experiment.model: experiment for experiment in elsewhere.experiments.values()}
    assert set(by_model) == {"han", "avg_parser"}
    assert elsewhere.extractors == ["a", "v"]
    started = [path.replace("/d/", "/audioset/") for path in started]
    assert elsewhere.checkpoints_before(by_model["avg_parser"], (0, 4)) == started


def test_a_figure_of_the_annotations_reads_no_run_and_needs_no_clip():
    found = plan(**study_file("llp_features") | {"tables": [], "figures": ["avvp_events"]})
    read = {"events.parquet", "categories.csv", "manifest.parquet"}
    assert set(found.figure_files("avvp_events")) == {f"results/llp_features/{name}" for name in read}
    assert found.experiments == {}
    assert found.extractors == []


def test_the_studys_options_of_a_model_are_checked_once(monkeypatch):
    """When the study is read; neither for each row nor when a table's experiments are asked for again."""
    checked = []
    real = plan_module.check_model
    monkeypatch.setattr(plan_module, "check_model", lambda *given: checked.append(given) or real(*given))
    study = study_file("ave_features") | {"models": {"avin": {"fusion_bias": 2.0}}}
    found = plan(**study)
    assert checked == [("avin", {"fusion_bias": 2.0})]
    biased = [e for e in found.experiments.values() if e.model == "avin"]
    assert biased
    assert all(e.options["fusion_bias"] == 2.0 for e in biased)
    with pytest.raises(ConfigError, match=r"models.avin: .*did you mean 'fusion_bias'"):
        plan(**study | {"models": {"avin": {"fusion_bais": 2.0}}})


def test_every_experiment_is_written_to_the_folder_of_its_runs(tmp_path, monkeypatch):
    found = plan(**study_file("ave_features") | {"tables": ["avin_fusion"], "figures": []})
    monkeypatch.chdir(tmp_path)
    found.write_experiments()
    assert sorted(map(str, Path().rglob("*.json"))) == sorted(found.experiment_files)
    for name, experiment in found.experiments.items():
        read = Experiment.read(Path(f"results/ave_features/runs/{name}/experiment.json"))
        assert (read, read.id) == (experiment, name)


def test_rules_get_what_they_compare_from_the_manifest_once_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, shard = plan(**IMPORTED), SimpleNamespace(shard="1")
    assert found.shard_digest(shard) is found.labels_digest(shard) is None
    write_json(Path("results/d/manifest.json"), {"shards": {"0": "aa", "1": "bb"}, "labels": "cc"})
    assert (found.shard_digest(shard), found.labels_digest(shard)) == ("bb", "cc")
    assert found.shard_digest(SimpleNamespace(shard="2")) is None


def test_a_separation_with_another_datasets_sounds_needs_that_datasets_clips(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = study_file("demo_separation")
    study["training_of"]["separation"]["off_screen"] = "beside"
    made = plan(**study)
    of_task = {
        experiment.task: SimpleNamespace(experiment=name) for name, experiment in made.experiments.items()
    }
    assert made.run_off_screen(of_task["alignment"]) == []
    with pytest.raises(
        ConfigError, match=r"results/beside/clips\.parquet is missing. Run the study of beside first"
    ):
        made.run_off_screen(of_task["separation"])
    (tmp_path / "results" / "beside").mkdir(parents=True)
    (tmp_path / "results" / "beside" / "clips.parquet").touch()
    assert made.run_off_screen(of_task["separation"]) == ["results/beside/clips.parquet"]


def test_a_run_of_no_row_is_refused():
    with pytest.raises(ConfigError, match="no table, figure or `experiments` of this study has avin-1"):
        plan(**IMPORTED).run_code(SimpleNamespace(experiment="avin-1"))


@pytest.mark.parametrize(("name", "meant"), [("parsng", "parsing"), ("avg_parsr", "avg_parser")])
def test_an_unknown_task_or_model_gets_a_suggestion(name, meant):
    with pytest.raises(ConfigError, match=f"training_of: .*did you mean '{meant}'"):
        plan(**IMPORTED, training_of={name: {"lr": 0.1}})


def test_a_mistyped_table_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean 'avin_fusion'"):
        plan(**{**IMPORTED, "tables": ["avin_fusio"]})


def test_ucf101s_splits_are_the_same_experiments_on_whole_videos_in_folders_of_their_own():
    first = study_file("ucf101_multisensory")
    made = plan(**first)
    (table,) = made.tables.values()
    trained = [row.row for row in table.rows if row.trains]
    assert trained == ["full", "random_pairing", "vision_only", "scratch"]
    assert len(made.experiments) == 4
    (whole,) = made.presets
    assert (whole.fps, whole.width, whole.height) == (Fraction(30_000, 1001), 256, 256)
    assert (whole.sample_rate, whole.channels, whole.pad) == (21_000, 2, False)
    audioset = plan(**study_file("audioset_multisensory"))
    start = {path for e in made.experiments.values() for path in made.checkpoints_before(e, made.study.seeds)}
    assert len(start) == 2
    assert start <= set(audioset.runs(audioset.experiments.values(), "checkpoint.pt"))
    splits = {first["dataset"]["name"]}
    for number in (2, 3):
        given = study_file(f"ucf101_split{number}")["dataset"]  # Snakemake merges it into the first file
        other = plan(**{**first, "dataset": {**first["dataset"], **given}})
        assert other.study.dataset.options == {"split": number}
        assert other.experiments.keys() == made.experiments.keys()
        splits.add(other.study.dataset.name)
    assert splits == {made.study.dataset.name, *table.averages["accuracy_of_splits"].datasets}


def test_several_processes_ask_for_more_of_a_machine_and_change_no_experiment():
    one, two = ({**study_file("ave"), "device": "cuda"} for _ in range(2))
    name = next(iter(two["experiments"]))
    two["experiments"][name]["processes"] = 2
    alone, together = (Plan(resolve(validate_study(study)), WORKFLOW) for study in (one, two))
    assert alone.experiments == together.experiments
    asked = SimpleNamespace(experiment=together.of_study[name].id)
    assert [p.training_gpus(asked) for p in (alone, together)] == [1, 2]
    assert together.training_threads(asked) == 2 * alone.training_threads(asked)
    assert together.training_memory(asked, 1) == 2 * alone.training_memory(asked, 1) + 1300
    assert together.training_gpu_asked(asked) == 200
