"""The tables and figures that come with avpipe have the papers' numbers, and every row can be built."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from avpipe.features.spec import map_cells
from avpipe.models import create_model
from avpipe.models.base import LocalizationBatch
from avpipe.plan.experiment import Experiment, Setting, model_options
from avpipe.plan.extractor import LearnedConfig
from avpipe.plan.study import Study, validate_study
from avpipe.report.spec import load_figure
from avpipe.tables.spec import load_table, parse_table

ROOT = Path(__file__).resolve().parents[2]
TABLES = {path.stem: path for path in sorted((ROOT / "workflow" / "tables").glob("*.yaml"))}
FIGURES = {path.stem: path for path in sorted((ROOT / "workflow" / "figures").glob("*.yaml"))}


def read_study(path: Path) -> Study:
    return validate_study(yaml.safe_load(path.read_text(encoding="utf-8")))


DEFAULT = read_study(ROOT / "config.yaml")
STUDIES = {path.stem: read_study(path) for path in sorted((ROOT / "workflow" / "configs").glob("*.yaml"))}


def studies_of(name: str) -> list[Study]:
    """The studies that ask for this table or figure."""
    return [study for study in (DEFAULT, *STUDIES.values()) if name in (*study.tables, *study.figures)]


def numbers_of(name: str, setting: Setting, metric: str = "accuracy") -> dict[str, float | None]:
    """row -> published number."""
    return {row.row: row.published_number(setting, metric) for row in load_table(TABLES[name]).rows}


def published(name: str) -> dict[str, tuple[float | None, float | None]]:
    """row -> (supervised, weakly-supervised)."""
    weak = numbers_of(name, "weakly-supervised")
    return {row: (number, weak[row]) for row, number in numbers_of(name, "supervised").items()}


@cache
def build(model: str, options: str) -> None:
    """Create the model, without memory for its weights, once for all rows that ask for it."""
    with torch.device("meta"):
        create_model(model, **json.loads(options))


@pytest.mark.parametrize("name", [*TABLES, *FIGURES])
def test_every_row_names_a_model_that_can_be_built(name: str) -> None:
    assert studies_of(name)
    for study in studies_of(name):
        spec = load_table(TABLES[name], study) if name in TABLES else load_figure(FIGURES[name], study)
        for experiment in spec.experiments(study).values():
            widths = {f"{r}_dim": study.array(n) for r, n in experiment.features.items()}
            of_runs = {key: array.width for key, array in widths.items() if isinstance(array, LearnedConfig)}
            build(experiment.model, json.dumps({**of_runs, **experiment.options}))


@pytest.mark.parametrize("study", [DEFAULT, *STUDIES.values()], ids=["config", *STUDIES])
def test_every_training_beside_the_tables_names_a_model_that_can_be_built(study: Study) -> None:
    for name in study.experiments:
        experiment = study.trained(name)
        build(experiment.model, json.dumps(experiment.options))


def with_own(shape: list[int]) -> Study:
    """The default study with an imported visual feature of this shape as the only backbone."""
    own = {"path": "own", "format": "npy", "shape": shape}
    data = DEFAULT.model_dump() | {"imported": {"own": own}, "backbones": {"own": ["supervised"]}}
    return Study.model_validate(data)


@pytest.mark.parametrize("shape", [[10, 768], [10, 1, 1, 768]])
def test_every_row_of_ave_grid_runs_on_vectors(shape: list[int]) -> None:
    study = with_own(shape)
    spec = load_table(TABLES["ave_grid"], study)
    assert len(spec.experiments(study)) == len(spec.rows) == 13
    without = {row.model for row in spec.rows if "without attention" in (row.remark or "")}
    assert without == {"avel", "avrb", "cman", "dam", "mpn", "jcan", "psp"}
    batch = LocalizationBatch(audio=torch.zeros(1, 10, 128), visual=torch.zeros(1, *shape))
    for experiment in spec.experiments(study).values():
        sizes = {"visual_dim": 768, "visual_cells": map_cells(study.arrays["own"])}
        known = model_options(experiment.model)
        sizes = {name: size for name, size in sizes.items() if name in known}
        create_model(experiment.model, **sizes, **experiment.options).eval()(batch)


@pytest.mark.parametrize("name", ["ave_grid", "ave_cross_modality"])
def test_a_feature_of_frames_that_are_apart_makes_gaps_for_models_that_take_their_average(name: str) -> None:
    study = with_own([10, 8, 768])
    data = yaml.safe_load(TABLES[name].read_text(encoding="utf-8"))
    data["defaults"]["features"]["visual"] = "own"
    spec = parse_table(data, name, study)
    assert not spec.experiments(study)
    assert all("own keeps the frames of a segment apart" in (row.gap or "") for row in spec.rows)


@pytest.mark.parametrize("name", FIGURES)
def test_no_figure_needs_runs_that_its_studys_tables_do_not(name: str) -> None:
    for study in studies_of(name):
        if study.dataset.name == "quick":  # one table, and a figure that compares it with a second model
            continue
        tables = [load_table(TABLES[table], study) for table in study.tables]
        in_tables = {step.id for t in tables for e in t.experiments(study).values() for step in e.chain}
        shown = load_figure(FIGURES[name], study).experiments(study).values()
        assert {e.id for e in shown if e.recipe.epochs} <= in_tables  # the others only evaluate


DATASETS = {
    "avvp": "LLP",
    "multisensory_alignment": "AudioSet",
    "multisensory_ucf101": "UCF101",
    "multisensory_separation": "VoxCeleb",
}
"""How a table's name begins -> the dataset of its numbers, which otherwise is AVE."""


@pytest.mark.parametrize("name", TABLES)
def test_every_table_says_in_a_sentence_where_its_numbers_are_from(name: str) -> None:
    spec = load_table(TABLES[name])
    if any(row.published for row in spec.rows):
        dataset = next((found for begin, found in DATASETS.items() if name.startswith(begin)), "AVE")
        assert spec.origin().startswith(f"Published on {dataset}: ")
    else:
        assert spec.origin().startswith("No ")
    assert not re.search(r"\b(none|nowhere)\b|[.,;:]\.$", spec.origin())


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("avin_comparison", {
            "audio": (62.3, 57.0), "visual": (57.4, 53.8), "avel": (72.7, 66.7), "avsdn": (72.8, 66.5),
            "dam": (74.5, None), "avrb": (74.8, 68.9), "avin": (75.2, 69.4),
        }),
        ("avin_fusion", {
            "multiplication": (60.3, 55.1), "addition": (63.4, 58.2), "concatenation": (65.7, 60.3), "avin": (75.2, 69.4),
        }),
        ("avin_ablation", {
            "lstm": (70.1, 63.8), "mfb": (71.4, 66.7), "lstm_intra": (71.2, 65.4), "lstm_intra_inter": (73.5, 67.9),
            "avin": (75.2, 69.4),
        }),
    ],
)  # fmt: skip
def test_published_numbers_of_the_avin_tables_are_the_slides(
    name: str, numbers: dict[str, tuple[float, float | None]]
) -> None:
    assert published(name) == numbers


def test_published_numbers_of_the_avsdn_tables_are_those_of_lin_et_al() -> None:
    for name, setting, numbers in (
        ("avsdn_supervised", "supervised", [59.5, 55.3, 71.4, 72.7, 65.0, 74.0, 74.7, 75.4]),
        ("avsdn_weak", "weakly-supervised", [53.4, 52.9, 63.7, 66.7, 63.4, 71.6, 73.3, 74.2]),
        ("avsdn_initial_state", "weakly-supervised", [70.2, 70.9, 72.6, 74.2]),
    ):
        assert list(numbers_of(name, setting).values()) == numbers


def test_published_numbers_over_theta_are_those_of_the_text() -> None:
    theta = {row: n for row, n in numbers_of("tacma_theta", "supervised").items() if n is not None}
    # section 4.3.3: no weights over time give 0.4 more than Table 2's 75.6; the peak is Table 3's 77.2
    assert theta == {"theta_0": pytest.approx(75.6 + 0.4), "theta_0_03": 77.2}


def test_tacmas_figure_shows_the_points_and_numbers_of_its_table() -> None:
    table, figure = load_table(TABLES["tacma_theta"]), load_figure(FIGURES["tacma_theta"])
    assert [(row.row, row.options, row.published) for row in figure.rows] == [
        (row.row, row.options, row.published) for row in table.rows
    ]


def test_published_numbers_of_the_recipes_are_those_of_the_tables_that_print_them() -> None:
    avel, jcan = published("avin_comparison")["avel"], published("tacma_comparison")["jcan"]
    avsdn = published("avsdn_supervised")["avsdn"][0], published("avsdn_weak")["avsdn"][1]
    numbers = {row: pair for row, pair in published("ave_recipes").items() if pair != (None, None)}
    assert numbers == {
        "avel": (avel[0], None), "avel_weak": (None, avel[1]),
        "avsdn": (avsdn[0], None), "avsdn_weak": (None, avsdn[1]), "jcan": (jcan[0], None),
    }  # fmt: skip


def test_the_printed_numbers_are_in_the_papers_text(shared: Path) -> None:
    slides = (shared / "papers" / "avin_slides.txt").read_text(encoding="utf-8")
    lin = (shared / "papers" / "avsdn.txt").read_text(encoding="utf-8")
    for name, text in (("avin_comparison", slides), ("avin_fusion", slides), ("avin_ablation", slides)):
        for supervised, weakly in published(name).values():
            assert f"\t{supervised}\t{'-' if weakly is None else weakly}" in text
    for name in ("avsdn_supervised", "avsdn_weak", "avsdn_initial_state"):
        for numbers in published(name).values():
            assert all(f"| {number} |" in lin for number in numbers if number is not None)


def test_the_numbers_of_the_tacma_tables_are_in_its_papers_text(shared: Path) -> None:
    text = (shared / "papers" / "avbt_tacma.txt").read_text(encoding="utf-8")
    printed = text.split("Table 3. Comparing")[1].split("Table 4. Ablations")[0]
    methods = re.findall(r"^\s*(\S+) (?:\[\d+\]|\(Ours\))$", printed, re.MULTILINE)
    numbers = re.findall(r"^\s*(\d\d\.\d)(?: \*)?$", printed, re.MULTILINE)
    spec = load_table(TABLES["tacma_comparison"])
    rows = [
        (row.method.replace(" ", ""), row.published_number("supervised", "accuracy")) for row in spec.rows
    ]
    assert rows[-1] == ("TACMA", None)
    assert rows[:-1] == list(zip(methods, map(float, numbers), strict=True))
    assert "peak performance is achieved when  θ  = 0.03" in text
    assert "only improving by 0.4% compared to the result in Table 2" in text


def printed_numbers(text: str, table: int) -> list[float]:
    begin = text.rindex(f"Table {table}. ")
    printed = text[begin:].split(f"Table {table + 1}. ")[0]
    return [float(number) for number in re.findall(r"\d\d\.\d", printed)]


@pytest.mark.parametrize(
    ("name", "number"), [("avbt_features", 2), ("avbt_architecture", 4), ("avbt_augmentation", 5)]
)
def test_the_numbers_of_the_avbt_tables_are_printed_in_this_order(
    name: str, number: int, shared: Path
) -> None:
    text = (shared / "papers" / "avbt_tacma.txt").read_text(encoding="utf-8")
    printed = printed_numbers(text, number)
    if number == 4:  # a line of numbers for each column: both modalities, audio, visual
        printed = [printed[i] for i in (0, 3, 5, 1, 2, 4, 6)]
    assert [n for n in numbers_of(name, "supervised").values() if n is not None] == printed


def test_each_row_of_the_augmentations_is_trained_with_those_that_it_names() -> None:
    study = STUDIES["ave"]
    for row in load_table(TABLES["avbt_augmentation"], study).rows:
        run = study.extractors[row.features["audio"]].run
        names = {"mild_crop" if name == "crop*" else name for name in row.method.split(", ")} - {"none"}
        assert set(study.trained(run).recipe.augment) == names


def test_the_numbers_of_multisensory_on_ucf101_are_the_slides_row_by_row(shared: Path) -> None:
    slides = (shared / "papers" / "multisensory_slides.txt").read_text(encoding="utf-8")
    lines = slides.split("Model\tAcc.\n")[1].split("\n\n")[0].splitlines()
    printed = [re.fullmatch(r"(.*?)(?: ?\[[\d,]+\](\)?))?(\*?)\t([\d.]+)%", line) for line in lines]
    rows = load_table(TABLES["multisensory_ucf101"]).rows
    assert len(rows) == 13
    for row, line in zip(rows, printed, strict=True):
        assert line, lines
        assert row.method == line[1] + (line[2] or "")
        assert (row.remark == "starred on the slide") == bool(line[3])
        assert row.published_number("supervised", "accuracy") == float(line[4])
        assert row.published_number("supervised", "accuracy_of_splits") is None


PARSING = ("audio", "visual", "audio_visual", "type", "event")


@pytest.mark.parametrize("level", ["segment", "event"])
def test_the_parsing_tables_are_lamba_et_als_row_by_row(level: str, shared: Path) -> None:
    text = (shared / "papers" / "avvp_crossmodal.txt").read_text(encoding="utf-8")
    printed = text.split("Method/Event Audio Visual AV Ty@AV Ev@AV")[1 if level == "segment" else 2]
    spec = load_table(TABLES[f"avvp_{level}"])
    assert list(spec.metrics) == [f"{level}_{kind}" for kind in PARSING]
    lines = printed.strip().splitlines()[: len(spec.rows)]
    assert len(spec.rows) == 9
    for row, line in zip(spec.rows, lines, strict=True):
        *method, audio, visual, both, type_av, event_av = line.replace("[1]", "").replace("[20]", "").split()
        numbers = [float(number) for number in (audio, visual, both, type_av, event_av)]
        assert row.method == " ".join(method)
        assert [row.published_number("weakly-supervised", metric) for metric in spec.metrics] == numbers


def test_no_number_is_published_for_cross_modality_localization() -> None:
    """Its papers are not in the shared folder, so their numbers cannot be checked."""
    assert not any(row.published for row in load_table(TABLES["ave_cross_modality"]).rows)


def test_both_parsing_tables_are_filled_from_the_same_runs() -> None:
    study = STUDIES["llp"]
    segment, event = (
        load_table(TABLES[name], study).experiments(study) for name in ("avvp_segment", "avvp_event")
    )
    assert segment == event


def test_the_avin_row_is_one_experiment_in_all_its_tables() -> None:
    names = ("avin_comparison", "avin_fusion", "avin_ablation")
    ids = {load_table(TABLES[name]).experiments(DEFAULT)["avin", "supervised"].id for name in names}
    assert len(ids) == 1


def experiments_of(name: str, study: str) -> list[Experiment]:
    return list(load_table(TABLES[name], STUDIES[study]).experiments(STUDIES[study]).values())


def test_the_rows_pretrained_on_audioset_start_from_what_its_study_trains() -> None:
    trained = {experiment.id for experiment in experiments_of("avg_pretraining", "audioset_pretraining")}
    asked = experiments_of("avvp_pretraining", "llp_audioset")
    assert {experiment.pretrained_on for experiment in asked} == {"audioset_pretraining"}
    assert len(trained) == 3
    assert {experiment.pretraining.id for experiment in asked if experiment.pretraining} == trained
    assert STUDIES["llp_audioset"].seeds == STUDIES["audioset_pretraining"].seeds
    # but for the pretraining they are the rows of the other tables
    rows = [e for e in experiments_of("avvp_segment", "llp") if e.pretraining]
    without = {"pretraining": None, "pretrained_on": None}
    assert [e.model_copy(update=without) for e in asked] == [e.model_copy(update=without) for e in rows]


@pytest.mark.parametrize("name", ["avvp_segment", "avvp_event", "avvp_recipes"])
def test_rows_that_pretrain_on_the_studys_clips_say_that_the_paper_took_audioset(name: str) -> None:
    rows = [row for row in load_table(TABLES[name]).rows if row.pretraining]
    assert rows
    for row in rows:
        assert row.pretraining is None or row.pretraining.dataset is None
        assert "29,000 clips of AudioSet" in (row.remark or "")


@pytest.mark.parametrize("study", ["llp", "llp_features"])
def test_the_recipes_for_llp_are_those_of_the_released_scripts(study: str) -> None:
    """epochs, batch size, learning rate, its schedule, checkpoint: read in the scripts' defaults."""
    found = {}
    for experiment in experiments_of("avvp_recipes", study):
        for step in experiment.chain:
            recipe = step.recipe
            decay = (recipe.step, recipe.gamma) if recipe.schedule == "step" else recipe.schedule
            found[step.model] = recipe.epochs, recipe.batch_size, recipe.lr, decay, recipe.protocol
    assert found == {
        "han": (40, 16, 3e-4, (10, 0.1), "validation"),
        "ma": (12, 16, 3e-4, (10, 0.1), "last"),
        "crossmodal_parser": (40, 64, 6e-4, (6, 0.5), "validation"),
        "avg_parser": (40, 64, 1e-6, "constant", "validation"),
        "avg": (40, 16, 1e-6, "constant", "validation"),
    }


@pytest.mark.parametrize("name", ["avvp_recipes", "avvp_pretraining"])
def test_published_numbers_of_a_parsing_table_are_those_of_the_papers_two(name: str) -> None:
    for metric in load_table(TABLES[name]).metrics:
        papers = load_table(TABLES[f"avvp_{metric.split('_')[0]}"])
        printed = {row.method: row.published_number("weakly-supervised", metric) for row in papers.rows}
        for row in load_table(TABLES[name]).rows:
            assert row.published_number("weakly-supervised", metric) == printed[row.method]
