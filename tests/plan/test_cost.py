"""`avpipe plan`: amounts against sums by hand, and the jobs against those that Snakemake counts."""

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from avpipe.cli import app
from avpipe.files import write_json
from avpipe.plan import rates
from avpipe.plan.cost import Cost, Stage, count_clips, extractor_rate, study_cost
from avpipe.plan.extractor import ExtractorConfig
from avpipe.plan.plan import Plan
from avpipe.plan.section import ConfigError
from avpipe.plan.study import validate_study

WORKFLOW = Path(__file__).resolve().parents[2] / "workflow"
BENCHMARK = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


@pytest.fixture
def audioset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """AudioSet's study in an empty folder, with shards of 512 clips."""
    monkeypatch.chdir(tmp_path)
    study = yaml.safe_load((WORKFLOW / "configs" / "audioset.yaml").read_text())
    return Plan(validate_study(study | {"shard_size": 512}), WORKFLOW)


def stages(cost: Cost) -> dict[str, Stage]:
    return {stage.kind.split()[0]: stage for stage in cost.stages}


def finish_shards(plan: Plan, clips: int, seconds: dict[int, float | str]) -> None:
    """A manifest, and the files of these shards: `cpu_time` of extraction, canonical clips of 100,000 bytes each."""
    size, results = plan.study.shard_size, Path(plan.results)
    write_json(results / "manifest.json", {"clips": clips, "rows": clips})
    for folder in ("benchmarks/extract/vggish_resnet152", "segments/canonical", "downloads/files"):
        (results / folder).mkdir(parents=True)
    for shard, taken in seconds.items():
        table = BENCHMARK + f"9\t0:00:09\t1\t1\t1\t1\t0\t0\t90\t{taken}\n"
        (results / f"benchmarks/extract/vggish_resnet152/{shard}.tsv").write_text(table)
        (results / f"segments/canonical/{shard}.tar").write_bytes(bytes(100_000 * size - 7))
        (results / f"segments/canonical/{shard}.parquet").write_bytes(bytes(7))


def test_two_million_clips_of_audioset(audioset: Plan) -> None:
    cost = study_cost(audioset, clips=2_000_000)
    found = stages(cost)
    shards = 3_907  # 2,000,000 / 512 = 3,906.25
    assert [found[kind].jobs for kind in ("fetch", "normalise", "extract")] == [shards] * 3
    assert cost.jobs == 3 * shards + 2  # and the manifest and clips.parquet
    assert found["extract"].disk == 2_000_000 * (10 * 128 * 4 + 10 * 8 * 2048 * 2)
    assert found["normalise"].core_hours == pytest.approx(2_000_000 * 2 / 6.23 / 3600)
    assert cost.download_days == pytest.approx(2_000_000 / 250 / 24)
    assert found["fetch"].disk is None, "nothing was downloaded yet"
    assert cost.memory_mb == 8_000


def test_a_range_of_shards_is_without_what_follows_and_its_last_shard_is_short(audioset: Plan) -> None:
    cost = study_cost(audioset, clips=1_100, shards=(1, 2))
    assert cost.clips == 1_100 - 512
    assert {kind: stage.jobs for kind, stage in stages(cost).items()} == {
        "manifest": 1,
        "fetch": 2,
        "normalise": 2,
        "extract": 2,
    }
    assert "features/vggish.zarr/c/{1..2}/0/0" in cost.targets
    with pytest.raises(ConfigError, match="shards 0 to 2"):
        study_cost(audioset, clips=1_100, shards=(1, 3))


def test_rates_and_sizes_of_the_studys_own_finished_shards_win(audioset: Plan) -> None:
    finish_shards(audioset, 1_100, {0: 1024.0, 2: 352.0, 1: "NA"})
    cost = study_cost(audioset)
    found = stages(cost)
    assert cost.counted.endswith("manifest.json")
    # Shards 0 and 2 have 512 and 1100 - 2 * 512 = 76 clips; the record of shard 1 says nothing.
    assert found["extract"].core_hours == pytest.approx(1_100 * (1024 + 352) / (512 + 76) / 3600)
    assert found["extract"].source == "this study's benchmarks, shards: 2"
    assert found["normalise"].disk == pytest.approx(1_100 * 3 * 512 * 100_000 / 1_100)


@pytest.mark.parametrize(
    ("options", "clips"),
    [
        ({}, 22_160 + 20_371),
        ({"sets": ["unbalanced", "eval"], "total": 750_000}, 750_000 + 20_371),
    ],
)
def test_the_published_clips_of_audioset(audioset: Plan, options: dict[str, object], clips: int) -> None:
    audioset.study.dataset.options.clear()
    audioset.study.dataset.options.update(options)
    assert count_clips(audioset) == (clips, "as published")


def test_annotation_files_are_counted_and_an_unknown_number_is_asked_for(audioset: Plan) -> None:
    audioset.study.dataset.options["classes"] = ["Speech"]
    with pytest.raises(ConfigError, match="give --clips N"):
        study_cost(audioset)
    folder = Path("data/audioset/annotations")
    folder.mkdir(parents=True)
    (folder / "class_labels_indices.csv").write_text("index,mid,display_name\n0,/m/09x0r,Speech\n")
    for name in ("balanced_train", "eval"):
        (folder / f"{name}_segments.csv").write_text(f'{name}xxxxxxxxx, 0.000, 10.000, "/m/09x0r"\n')
    assert count_clips(audioset)[0] == 2


@pytest.mark.parametrize(
    ("keys", "units"),
    [
        ({"backbone": "resnet152", "fps": 8}, 10 * 8),
        ({"backbone": "resnet152", "fps": 8, "image_size": 112}, 10 * 8 / 4),
        ({"backbone": "r3d_18", "fps": 16, "image_size": 112}, 10 * 2),
        ({"backbone": "vggish"}, 10),
    ],
)
def test_an_extractor_takes_its_pictures_or_seconds(keys: dict[str, object], units: float) -> None:
    config = ExtractorConfig.model_validate(keys)
    rate = extractor_rate(config)
    assert rate
    assert rate.amount == pytest.approx(units * (rates.PICTURES | rates.SEGMENTS)[config.backbone].amount)


def test_the_memory_is_that_of_the_rules() -> None:
    text = {path.stem: path.read_text() for path in (WORKFLOW / "rules").glob("*.smk")}
    asked = {
        name: [int(mb) for mb in re.findall(r"mem_mb=\D*\((\d+)", rules)] for name, rules in text.items()
    }
    assert max(mb for found in asked.values() for mb in found) == rates.OTHER_MB


def test_the_command_prints_gaps_for_what_was_not_measured(audioset: Plan) -> None:
    study = str(WORKFLOW / "configs" / "audioset.yaml")
    done = CliRunner().invoke(app, ["plan", study, "--clips", "51200", "--shards", "0-1"])
    assert done.exit_code == 0, done.output
    assert "1,536 clips" in done.output
    assert "hours of a GPU    ? (none was measured)" in done.output
    assert "resnet152.zarr/c/{0..1}/0/0/0 --configfile" in done.output
    wrong = CliRunner().invoke(app, ["plan", study, "--shards", "all"])
    assert wrong.exit_code == 1
    assert "0-99" in wrong.output


def test_the_output_in_the_docs_is_what_the_command_prints(audioset: Plan) -> None:
    study = str(WORKFLOW / "configs" / "audioset.yaml")
    docs = (WORKFLOW.parent / "docs" / "datasets.md").read_text()
    for more in ([], ["--shards", "0-99"]):
        output = CliRunner().invoke(app, ["plan", study, "--clips", "2000000", *more]).output
        shown = output.splitlines()[-1:] if more else output.splitlines()
        for line in shown:
            line = line.strip().replace(study, "workflow/configs/audioset.yaml")
            assert line in docs


def test_a_folder_is_counted_without_making_its_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    for name in ("one.mp4", "two.mp4", "notes.txt"):
        (tmp_path / "videos" / name).write_bytes(b"")
    study = str(WORKFLOW / "configs" / "folder.yaml")
    done = CliRunner().invoke(app, ["plan", study, "--folder", "videos"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("2 clips (files in ")
    assert not (tmp_path / "results").exists()
