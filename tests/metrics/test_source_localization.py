"""Scores of sound source localization against values worked out by hand, and against the protocol written as loops."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from avpipe.cli import app
from avpipe.metrics.source_annotations import AnnotatedFrame, read_annotated_frames
from avpipe.metrics.source_localization import (
    METRICS,
    area_under_success,
    centre,
    ciou,
    detection_scores,
    enlarged,
    frame_difference,
    map_at,
    parse_threshold,
    pointing,
    resized,
    score_sources,
    whole_image,
)

LEFT = np.repeat([[1.0, 0.0]], 112, axis=1).repeat(224, axis=0)
"""(224, 224), 1 on the left half."""
LEFT_HALF, RIGHT_HALF = [0, 0, 0.5, 1], [0.5, 0, 1, 1]


def frame(clip: str, *boxes: list[float], **keys: float | None) -> AnnotatedFrame:
    return AnnotatedFrame(clip, np.array(boxes, float).reshape(-1, 4), **keys)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (LEFT_HALF, 1),
        (RIGHT_HALF, 0),
        ([0, 0, 0.25, 1], 0.25 / 0.5),  # found: the left half
        ([0.25, 0, 0.75, 1], 0.25 / 0.75),
        ([0.3, 1, 0.8, 1], 0),  # a box without area
    ],
)
def test_half_of_the_picture_counts_as_found(box, expected):
    assert ciou(LEFT, [box]) == pytest.approx(expected)


def test_a_small_source_cannot_be_found_by_the_median_but_by_the_adaptive_threshold():
    perfect = np.zeros((224, 224))
    perfect[:112, :56] = np.linspace(1, 2, 56)
    box = [[0, 0, 0.25, 0.5]]  # an eighth of the picture
    with_order = (
        perfect + np.linspace(0, 0.5, 224)[:, None]
    )  # no two rows are equal, so the median finds half
    assert ciou(with_order, box) == pytest.approx(0.125 / 0.5, abs=0.01)
    assert ciou(with_order, box, threshold="adaptive") == 1
    assert ciou(perfect, box, threshold=0.75) == 0.5  # of 0 .. 2, so the 28 of 56 columns from 1.5 on
    assert ciou(perfect, box) == 0.125  # its median is 0: everything is found


def test_of_several_sources_the_union_counts_and_of_several_annotators_the_consensus():
    boxes = [LEFT_HALF, [0, 0, 0.25, 1]]
    found = np.where(np.arange(224) < 56, 1, np.where(np.arange(224) < 112, 0.4, 0))[None].repeat(224, 0)
    assert ciou(found, boxes, threshold=0.5) == pytest.approx(0.25 / 0.5)
    # Two boxes lie over the first quarter (g = 1), one over the second (g = 1/2).
    assert ciou(found, boxes, agreement=2, threshold=0.5) == pytest.approx(0.25 / 0.375)
    assert ciou(found, boxes, agreement=2, threshold=0.3) == 1


@pytest.mark.parametrize("agreement", [1, 2])
def test_ciou_is_the_protocol_written_as_loops(agreement):
    rng = np.random.default_rng(agreement)
    small, boxes = rng.normal(size=(7, 9)), np.sort(rng.random((3, 2, 2)), axis=1).reshape(3, 4)
    large = torch.nn.functional.interpolate(
        torch.from_numpy(small)[None, None], size=(224, 224), mode="bilinear", align_corners=True
    )[0, 0].numpy()
    assert np.allclose(resized(small, 224, 224), large)
    limit = sorted(large.ravel().tolist())[224 * 224 // 2]
    top = bottom = 0.0
    for y in range(224):
        for x in range(224):
            over = sum(
                int(224 * x0) <= x < int(224 * x1) and int(224 * y0) <= y < int(224 * y1)
                for x0, y0, x1, y1 in boxes
            )
            g = min(over / agreement, 1)
            top += g * (large[y, x] >= limit)
            bottom += g + (large[y, x] >= limit and g == 0)
    assert ciou(small, boxes, agreement=agreement) == pytest.approx(top / bottom)


def test_the_area_under_the_success_curve_is_worked_out_by_hand():
    # Share 1 up to 0.5, then 1/2 from 0.55 to 1; between them a trapezoid.
    assert area_under_success([0.5, 1.0]) == pytest.approx(0.5 + 0.05 * 0.75 + 0.45 * 0.5)
    assert area_under_success([1.0]) == pytest.approx(1)


def test_pointing_asks_where_the_maximum_is():
    peak = np.zeros((224, 224))
    peak[10, 20] = 1
    assert pointing(peak, [LEFT_HALF]) == 1
    assert pointing(peak, [RIGHT_HALF, [0.6, 0, 1, 1]]) == 0
    assert pointing(np.ones((7, 7)), [[0, 0, 0.25, 0.5]]) == pytest.approx(0.125)


def test_ap_and_max_f1_with_negatives_are_worked_out_by_hand():
    confidence = np.array([0.6, 0.9, 0.5, 0.8, 0.7])
    on_screen = np.array([1, 1, 0, 0, 1], bool)
    found = np.array([1, 1, 0, 0, 0], bool)
    # from 0.9: P 1, R 1/3; 0.8: 1/2, 1/3; 0.7: 1/3, 1/2 (a claim at the wrong place is not missed); 0.6: 2/4, 1; 0.5: 2/5, 1
    ap, max_f1 = detection_scores(found, on_screen, confidence)
    assert ap == pytest.approx(1 / 3 * 1 + (1 / 2 - 1 / 3) * 1 / 2 + 1 / 2 * 1 / 2)
    assert max_f1 == pytest.approx(2 * 0.5 * 1 / 1.5)
    # Equal confidences are claimed together, whatever their order: P 2/3, R 1.
    same = [detection_scores(f, f, np.ones(3)) for f in np.array([[1, 1, 0], [0, 1, 1]], bool)]
    assert same[0] == same[1] == pytest.approx((2 / 3, 2 * (2 / 3) / (5 / 3)))
    assert detection_scores(np.zeros(2, bool), np.ones(2, bool), np.ones(2)) == (0, 0)


def test_the_scores_of_a_data_set():
    truth = [frame("a", LEFT_HALF), frame("b", [0, 0, 0.2, 1]), frame("c"), frame("a", RIGHT_HALF, time=1.0)]
    maps = {"a": LEFT, "b": LEFT, "c": 0.5 * LEFT}
    scores = score_sources(truth, maps)
    assert list(scores) == list(METRICS)
    assert scores["ciou_50"] == pytest.approx(1 / 3)  # 1, about 0.4, 0
    assert scores["mean_ciou"] == pytest.approx((1 + 44 / 112 + 0) / 3)  # int(0.2 * 224) = 44
    assert scores["pointing"] == pytest.approx((1 + 44 / 112 + 0) / 3)  # equal maxima on the left half
    # One claim is right, two are at a wrong place, all of the same confidence; the negative comes last.
    assert (scores["ap"], scores["max_f1"]) == pytest.approx((1 / 3, 0.5))
    sure = score_sources(truth[:3], maps, {"a": 0.1, "b": 0.2, "c": 0.9})
    assert (sure["ap"], sure["max_f1"]) == pytest.approx((1 / 3, 0.5))
    for given, said in (({"a": LEFT}, "2 clips have no map: b, c"), (maps | {"b": np.nan * LEFT}, "clip b")):
        with pytest.raises(ValueError, match=said):
            score_sources(truth, given)
    with pytest.raises(ValueError, match="nothing to localize"):
        score_sources(truth[2:3], maps)


def test_maps_over_time_are_read_at_the_annotations_time():
    maps = np.arange(4.0)[:, None, None] * np.ones((4, 2, 2))  # of 2 s each: middles at 1, 3, 5, 7 s
    for time, expected in ((0, 0), (1, 0), (2, 0.5), (5.5, 2.25), (8, 3), (None, 1.5)):
        assert map_at(maps, time, seconds=8).tolist() == [[expected] * 2] * 2
    with pytest.raises(ValueError, match="clip x: its annotation is about second 1"):
        map_at(maps, 1.0, None, "x")
    with pytest.raises(ValueError, match=r"\(H, W\) or \(T, H, W\)"):
        map_at(maps[None], None, None)


def test_the_baselines_are_what_they_say():
    box = [[0.25, 0.25, 0.75, 0.75]]
    assert ciou(whole_image(), box) == pytest.approx(0.25)
    assert ciou(centre(), box) == pytest.approx(
        0.25 / 0.5, abs=0.001
    )  # a disc of half the picture holds the box
    assert np.unravel_index(centre().argmax(), (224, 224)) == (111, 111)
    frames = np.zeros((3, 4, 5, 3), np.uint8)
    frames[1, 2, 3] = 30, 0, 60
    assert frame_difference(frames).tolist() == [[30.0 if (y, x) == (2, 3) else 0.0 for x in range(5)] for y in range(4)]  # fmt: skip


def test_vggss_is_read_as_its_file_has_it(tmp_path):
    entries = [
        {"file": "zpWuikVorYg_000032", "class": "elk bugling", "bbox": [[0.403125, 0.253125, 0.6, 0.75]]},
        {"file": "3MUeg3nD2OU_000120", "class": "playing", "bbox": [[-0.1, 0.0, 0.5, 1.01], [0, 1, 1, 1]]},
    ]
    path = tmp_path / "vggss.json"
    path.write_text(json.dumps(entries))
    first, second = read_annotated_frames(path)
    assert (first.clip, first.time, first.agreement) == ("zpWuikVorYg_000032", None, 1)
    assert first.boxes.tolist() == entries[0]["bbox"]
    assert second.boxes.tolist() == [[0, 0, 0.5, 1], [0, 1, 1, 1]]
    path.write_text(json.dumps([*entries, {"file": "x", "bbox": [[1, 2, 3]]}]))
    with pytest.raises(ValueError, match=r"vggss\.json, entry 2"):
        read_annotated_frames(path)


def test_flickr_soundnet_is_read_with_all_annotators(tmp_path):
    box = "<bbox><kind>x</kind><a>{}</a><b>{}</b><c>{}</c><d>{}</d></bbox>"
    boxes = [box.format(0, 64, 128, 256), box.format(32, 64, 128, 128)]
    text = f"<root><one>{boxes[0]}</one><two>{boxes[1]}</two></root>"
    (tmp_path / "2401957951.xml").write_text(text)
    (tmp_path / "none.xml").write_text("<root/>")
    found, none = read_annotated_frames(tmp_path)
    assert (found.clip, found.agreement, none.on_screen) == ("2401957951", 2, False)
    assert found.boxes.tolist() == [[0, 0.25, 0.5, 1], [0.125, 0.25, 0.5, 0.5]]
    for broken in ("<root><bbox><a>1</a></bbox></root>", "<root>", text.replace("64", "?")):
        (tmp_path / "none.xml").write_text(broken)
        with pytest.raises(ValueError, match=r"none\.xml: .*five children"):
            read_annotated_frames(tmp_path)


HEAD = "clip,time,x0,y0,x1,y1,on_screen\n"


def test_a_csv_file_has_a_line_for_each_source_and_time(tmp_path):
    path = tmp_path / "sources.csv"
    path.write_text(HEAD + "a,0.5,0,0,0.5,1,1\na,0.5,0.5,0,1,1,1\na,1.5,,,,,0\nb,,0,0,1,1,1\nb,,,,,,0\n")
    found = read_annotated_frames(path)
    assert [(f.clip, f.time, f.boxes.tolist()) for f in found] == [
        ("a", 0.5, [LEFT_HALF, RIGHT_HALF]),
        ("a", 1.5, []),
        ("b", None, [[0, 0, 1, 1]]),
    ]


@pytest.mark.parametrize("line", ["a,1,0.5,0,0.5,1,1", "a,1,0,0,1,1,yes", "a,1,,,,,1", ",1,0,0,1,1,1", "a,-1,0,0,1,1,1", "a,1"])  # fmt: skip
def test_a_wrong_line_is_named(tmp_path, line):
    path = tmp_path / "sources.csv"
    path.write_text(f"{HEAD}a,0,0,0,1,1,1\n{line}\n")
    with pytest.raises(ValueError, match=r"sources\.csv, line 3: found"):
        read_annotated_frames(path)


def test_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("clip,time\n")
    for path, said in (("x.csv", "no column x0"), ("y.csv", "expected VGG-SS"), (".", "no xml files")):
        with pytest.raises(ValueError, match=said):
            read_annotated_frames(tmp_path / path)
    for text in ("mediam", "1.5"):
        with pytest.raises(ValueError, match="median, adaptive or a number"):
            parse_threshold(text)


def scored(folder: Path, *options: object) -> tuple[int, str]:
    """`avpipe results score-sources` of sources.csv and the maps in a folder."""
    given = ["--truth", folder / "sources.csv", "--maps", folder / "maps", *options]
    done = CliRunner().invoke(app, ["results", "score-sources", *map(str, given)])
    return done.exit_code, done.output


def test_the_command_scores_maps_beside_baselines_and_names_clips_without_a_map(tmp_path):
    (tmp_path / "maps").mkdir()
    (tmp_path / "sources.csv").write_text(f"{HEAD}a,1,0,0,0.5,1,1\na,3,,,,,0\ngone,1,0,0,1,1,1\n")
    np.save(tmp_path / "maps" / "a.npy", np.stack([LEFT, 0.5 * LEFT]))
    out = tmp_path / "scores.json"
    code, said = scored(tmp_path, "--seconds", 4, "--out", out)
    assert code == 0, said
    assert "1 of 2 clips have no map" in said
    assert "in no score: gone" in said
    assert said.splitlines()[-len(METRICS)].split() == ["cIoU@0.5", "100.0", "100.0", "0.0"]
    record = json.loads(out.read_text())
    assert (record["missing"], record["threshold"]) == (["gone"], "median")
    assert record["pictures"] == {"with_source": 1, "without_source": 1}
    assert record["scores"]["maps"] == dict.fromkeys(METRICS, 1.0)
    assert record["scores"]["whole image"]["mean_ciou"] == 0.5
    code, said = scored(tmp_path)
    assert (code, "give the length of the clips" in said) == (1, True)
    (tmp_path / "sure.csv").write_text("clip,sure\na,1\n")
    code, said = scored(tmp_path, "--seconds", 4, "--confidences", tmp_path / "sure.csv")
    assert (code, "expected the columns clip,confidence" in said) == (1, True)


def test_an_enlarged_map_has_its_cells_in_the_middle_of_their_parts():
    large = enlarged(np.array([[1.0, 0.0], [0.0, 0.0]]), 8, 8)
    assert large.shape == (8, 8)
    assert (
        large[:2, :2] == 1
    ).all()  # before the middle of the first of two cells, pixel 2 of 8, nothing changes
    # Pixel 3 is at 3.5, between the cells' middles 2 and 6: weights 0.625 and 0.375.
    assert large[0, 3] == pytest.approx(0.625)
