"""Trainings from clips, and extractors whose network one of them trains, are planned without torch."""

from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from avpipe.models import MODELS
from avpipe.plan.extractor import LearnedConfig
from avpipe.plan.plan import Plan
from avpipe.plan.section import ConfigError
from avpipe.plan.study import validate_study
from avpipe.training import TASKS

PREDICTING = {"task": "predicting", "model": "predicting", "preset": "tiny"}
STUDY = {
    "dataset": {"name": "d", "kind": "ave", "annotations": "data"},
    "presets": {"tiny": {"seconds": 10, "fps": 4, "width": 32, "height": 32, "sample_rate": 16_000}},
    "extractors": {"seen": {"run": "predicting", "output": "visual"}},
    "experiments": {"predicting": PREDICTING},
    "tables": ["small"],
    "seeds": [0, 1],
}
TABLE = {
    "title": "T", "paper": "none", "printed": "nowhere", "task": "localization", "metrics": {"accuracy": "Acc."},
    "settings": ["supervised"],
    "rows": [{"row": "avel", "method": "AVEL", "model": "avel", "options": {"inputs": "audio"}, "features": {"audio": "seen"}}],
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the table, in which the test's task is known."""
    monkeypatch.chdir(tmp_path)
    for table, name in ((TASKS, "Predicting"), (MODELS, "Net")):
        monkeypatch.setitem(table, "predicting", f"tests.predicting:{name}")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "small.yaml").write_text(yaml.safe_dump(TABLE))
    return tmp_path


def plan(folder, **changes: Any) -> Plan:
    return Plan(validate_study({**STUDY, **changes}), folder)


def test_a_rows_feature_brings_its_run_and_the_formats_of_its_clips(folder):
    found = plan(folder)
    before = found.of_study["predicting"]
    assert {e.model for e in found.experiments.values()} == {"avel", "predicting"}
    assert (found.features, found.needs_media) == (["seen"], True)
    assert [preset.name for preset in found.presets] == ["canonical", "tiny"]
    checkpoint = f"results/d/runs/{before.id}/seed0/checkpoint.pt"
    assert found.extractor_weights(("seen",), None) == [checkpoint]
    assert found.segments(("seen",)) == "results/d/segments/tiny/{shard}.tar"
    assert found.chunk("seen", 3) == "results/d/features/seen.zarr/c/3/0/0"
    assert (found.extraction_memory(("seen",)), found.extraction_threads(("seen",))) == (3500, 1)
    assert [found.group_of("normalise"), found.group_of("extract", ("seen",))] == ["shard", None], (
        "it waits for all shards"
    )
    run = SimpleNamespace(experiment=before.id)
    assert (found.run_features(run), found.training_threads(run)) == ([], 1)
    assert f"results/d/runs/{before.id}/seed1/metrics.json" in found.outcomes


def test_outputs_of_an_experiment_are_extractors_and_one_job_computes_all_of_a_run(folder):
    own = {"predicting": {**PREDICTING, "seeds": [1], "outputs": ["visual", "predicted"]}}
    rows = [{**TABLE["rows"][0], "features": {"audio": "predicting_visual"}}]
    (folder / "tables" / "small.yaml").write_text(yaml.safe_dump({**TABLE, "rows": rows}))
    found = plan(folder, extractors={}, experiments=own, features=["predicting_predicted"])
    assert found.bundles == [("predicting_visual", "predicting_predicted")]
    (checkpoint,) = found.extractor_weights(found.bundles[0], None)
    assert checkpoint.endswith("/seed1/checkpoint.pt")
    part = validate_study(yaml.safe_load(found.table_study(SimpleNamespace(table="small"))))
    assert part.arrays == found.arrays


def test_with_several_seeds_each_run_of_a_row_reads_the_features_of_its_own_seeds_training(folder):
    own = {"predicting": {**PREDICTING, "outputs": ["visual", "predicted"]}}
    rows = [
        {**TABLE["rows"][0], "row": name, "features": {"audio": name}}
        for name in ("predicting_visual", "seen")
    ]
    (folder / "tables" / "small.yaml").write_text(yaml.safe_dump({**TABLE, "rows": rows}))
    found = plan(folder, experiments=own)
    per_seed, fixed = (e for e in found.experiments.values() if e.model == "avel")
    assert per_seed.arrays(1) == {"audio": "predicting_visual-seed1"}
    assert fixed.arrays(1) == {"audio": "seen"}
    assert "per_seed" not in fixed.model_dump()
    assert found.run_features(SimpleNamespace(experiment=per_seed.id)) == [
        f"results/d/features/predicting_visual-seed{seed}.csv" for seed in (0, 1)
    ]
    assert found.bundles == [("predicting_visual-seed0", "predicting_visual-seed1", "seen")]
    checkpoints = found.extractor_weights(found.bundles[0], None)
    assert [checkpoint.split("/")[-2] for checkpoint in checkpoints] == ["seed0", "seed1"]
    both = [found.arrays[f"predicting_visual-seed{seed}"] for seed in (0, 1)]
    assert [array.checkpoint for array in both] == checkpoints
    part = validate_study(yaml.safe_load(found.table_study(SimpleNamespace(table="small"))))
    assert part.array("predicting_visual") == both[0]


def test_networks_of_several_experiments_share_a_job_where_the_study_says_so(folder):
    ours = {**PREDICTING, "seeds": [1], "outputs": ["visual", "predicted"]}
    own = {"one": ours, "two": {**ours, "options": {"width": 6}}}
    features = ["one_visual", "two_visual", "two_predicted"]
    changes = {"experiments": own, "features": features, "tables": [], "extractors": {}}
    assert plan(folder, **changes).bundles == [("one_visual",), ("two_visual", "two_predicted")]
    (bundle,) = plan(folder, **changes, bundles=[["one", "two"]]).bundles
    assert bundle == tuple(features), "a name of an experiment stands for its outputs"
    checkpoints = plan(folder, **changes, bundles=[["one", "two"]]).extractor_weights(bundle, None)
    assert [len(checkpoints), *{c.split("/")[-2] for c in checkpoints}] == [2, "seed1"]
    changes["extractors"] = {"sound": {"backbone": "vggish", "preset": "tiny"}}
    with pytest.raises(ConfigError, match="cannot share it with others"):
        plan(folder, **changes, bundles=[["sound", "one"]])
    with pytest.raises(ConfigError, match="no extractor 'three'"):
        plan(folder, **changes, bundles=[["three"]])


def test_an_experiment_is_trained_with_its_own_seeds_unless_a_row_asks_for_it_too(folder):
    found = plan(folder, experiments={"predicting": {**PREDICTING, "seeds": [0]}})
    row, before = next(iter(found.experiments)), found.of_study["predicting"].id
    assert found.by_seeds == {(0, 1): [row], (0,): [before]}
    assert [found.of_seeds("train", seeds) for seeds in found.by_seeds] == ["train", "train_seed_0"]
    assert plan(folder).by_seeds == {(0, 1): [row], (0,): [before], (1,): [before]}, "a job for each seed"
    short = plan(
        folder, experiments={"predicting": {**PREDICTING, "recipe": {"epochs": 0, "protocol": "last"}}}
    )
    assert list(short.by_seeds) == [(0, 1)], "where nothing is trained, one job for all seeds"
    assert [file for file in found.outcomes if before in file] == [
        f"results/d/runs/{before}/seed0/metrics.json"
    ]
    asked = {"row": "net", "method": "Net", **PREDICTING}
    table = {
        **TABLE,
        "task": "predicting",
        "metrics": {"error": "Error"},
        "settings": ["self-supervised"],
        "rows": [asked],
    }
    (folder / "tables" / "small.yaml").write_text(yaml.safe_dump(table))
    assert plan(folder, experiments={"predicting": {**PREDICTING, "seeds": [0]}}).by_seeds == {
        (0,): [before],
        (1,): [before],
    }


def test_an_optional_row_is_a_gap_where_the_study_lacks_its_feature(folder):
    rows = [{**TABLE["rows"][0], "optional": True}]
    (folder / "tables" / "small.yaml").write_text(yaml.safe_dump({**TABLE, "rows": rows}))
    found = plan(folder, extractors={}, experiments={})
    assert found.tables["small"].rows[0].gap == "the study has no feature seen"
    assert not found.experiments
    assert plan(folder).tables["small"].rows[0].gap is None


@pytest.mark.parametrize(
    ("extractor", "options", "width"),
    [({}, {}, 4), ({}, {"width": 7}, 7), ({"output": "predicted"}, {"width": 7}, 64)],
)
def test_the_size_of_a_feature_is_the_outputs_or_its_options(folder, extractor, options, width):
    changes = {"extractors": {"seen": {"run": "predicting", "output": "visual", **extractor}}}
    found = plan(folder, **changes, experiments={"predicting": {**PREDICTING, "options": options}})
    seen = found.arrays["seen"]
    assert isinstance(seen, LearnedConfig)
    assert seen.width == width


def test_the_part_of_a_study_for_a_table_has_the_trainings_of_its_features(folder):
    part = validate_study(yaml.safe_load(plan(folder).table_study(SimpleNamespace(table="small"))))
    assert part.arrays == plan(folder).arrays


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experiments": {"predicting": {**PREDICTING, "seeds": [4]}}}, r"experiments.predicting.seeds: 4 is not among"),
        ({"experiments": {}}, "extractors.seen.run: no 'predicting' in `experiments` of the study"),
        (
            {"extractors": {"seen": {"run": "predicting", "output": "visul"}}},
            r"extractors.seen: unknown output of model 'predicting' 'visul'; did you mean 'visual'",
        ),
        (
            {"extractors": {"seen": {"run": "predicting", "output": "visual", "seed": 5}}},
            r"extractors.seen.seed: 5 is not among the seeds \[0, 1\]",
        ),
        (
            {"seeds": [0, 1, 2], "experiments": {"predicting": {**PREDICTING, "seeds": [0, 1], "outputs": ["visual"]}}, "features": ["predicting_visual"]},
            r"extractors.predicting_visual.seed: 2 is not among the seeds \[0, 1\] of its run; give the run one seed, or all",
        ),
        (
            {"extractors": {"seen": {"run": "predicting", "outptu": "visual"}}},
            "extractors.seen.outptu: no such key; did you mean 'output'",
        ),
        (
            {"experiments": {"predicting": {**PREDICTING, "preset": "tinny"}}},
            "experiments.predicting: preset: no preset 'tinny'; did you mean 'tiny'",
        ),
        (
            {"experiments": {"predicting": {**PREDICTING, "preset": "multisensory"}}},
            "extractors.seen: preset: clips of multisensory have no fixed number of segments",
        ),
        (
            {"experiments": {"predicting": {**PREDICTING, "preset": None, "features": {"audio": "seen"}}}},
            "a training cannot read features that need its own network: "
            "experiments.predicting -> extractors.seen -> experiments.predicting",
        ),
        (
            {"experiments": {"predicting": {**PREDICTING, "options": {"widht": 3}}}},
            "experiments.predicting: model 'predicting' has no option 'widht'; did you mean 'width'",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named_by_their_key(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        plan(folder, **changes)


def test_another_study_trains_the_network_and_a_missing_checkpoint_names_its_command(folder):
    other = {**STUDY, "dataset": {**STUDY["dataset"], "name": "large"}, "tables": [], "extractors": {}}
    (folder / "large.yaml").write_text(yaml.safe_dump(other))
    extractors = {"seen": {"run": "predicting", "output": "visual", "study": "large.yaml"}}
    found = plan(folder, extractors=extractors, experiments={}, presets={})
    before = Plan(validate_study(other), folder).of_study["predicting"]
    checkpoint = folder / "results" / "large" / "runs" / before.id / "seed0" / "checkpoint.pt"
    with pytest.raises(
        ConfigError,
        match=rf"snakemake --cores all results/large/.*/{checkpoint.name} --configfile large.yaml",
    ):
        found.extractor_weights(("seen",), None)
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert found.extractor_weights(("seen",), None) == [str(checkpoint.relative_to(folder))]
    assert {e.model for e in found.experiments.values()} == {"avel"}, "it is not trained here"
    with pytest.raises(ConfigError, match=r"presets.tiny: another study"):
        plan(folder, extractors=extractors, experiments={}, presets={"tiny": {**STUDY["presets"]["tiny"], "fps": 8}},
             media={"preset": "tiny"})  # fmt: skip
