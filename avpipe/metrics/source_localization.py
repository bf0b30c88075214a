"""Scores of sound source localization: does a map over the picture point at what sounds?

The protocol is that of VGG-SS and Flickr-SoundNet as EZ-VSL computes it (Mo and Morgado, Localizing Visual Sounds the Easy
Way, ECCV 2022; released code). In words, for one picture:

1. The map is enlarged to 224 x 224, bilinear with the corner cells on the picture's corners (`align_corners`), and normalised
   to 0 .. 1 by its smallest and largest value.
2. It is made binary: 1 where it is at least its upper median, so that half of the picture counts as found.
3. The truth g is 1 in every box (VGG-SS); or, where several annotators drew boxes, min(boxes over the pixel / 2, 1)
   (Flickr-SoundNet). A box covers the pixels from int(224 x0) to int(224 x1) - 1.
4. cIoU = sum(g where found) / (sum(g) + number of found pixels where g = 0).

The names hide what is counted. Papers print as "CIoU" or "AP50" the share of pictures with cIoU >= 0.5 (`ciou_50` here), and as
"AUC" the area under this share over the thresholds 0, 0.05, .. 1. Conventions differ in:

- **The threshold.** Since half of the picture counts as found, a source that covers less than a quarter of it cannot reach
  0.5, however good the map is (at best area / 0.5). `adaptive` finds as many pixels as the truth has (the released code of
  Senocak et al., Sound Source Localization is All About Cross-Modal Alignment, ICCV 2023). A number is a fixed threshold
  on the normalised map. The default is the median.
- **Enlarging.** SLAVC's code is bicubic, the first code (Chen et al., Localizing Visual Sounds the Hard Way, CVPR 2021) bilinear
  with the corner cells half a cell inside.
- **Ties.** EZ-VSL and SLAVC count a pixel equal to the threshold as found, other code does not. Here it is found: a map that has
  its smallest value on more than half of the picture, as after a ReLU, finds the whole picture.
- **The truth of VGG-SS.** EZ-VSL's code builds the truth of both sets as for Flickr-SoundNet, so that a single box counts half
  (frames with `agreement=2` give its numbers); the first code and SLAVC take the union, as here.

With pictures in which nothing sounds (negatives), a confidence decides whether a source is claimed at all (SLAVC: Mo and
Morgado, A Closer Look at Weakly-Supervised Audio-Visual Source Localization, NeurIPS 2022). A claim is right if a source is
there and cIoU >= 0.5, and wrong otherwise; a source that is not claimed is missed:

    precision = right / (right + wrong)        recall = right / (right + missed)

so a source that is claimed at the wrong place lowers the precision and not the recall. AP is the area under precision
(made non-increasing) over recall, max-F1 the largest F1 over thresholds; here every confidence is a threshold. SLAVC's released
code takes some 200 thresholds for AP, without the highest, and about ten for F1. Its confidence is the mean of the highest
quarter of the map's values, before normalisation; here it is their maximum, unless confidences are given.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from avpipe.metrics.metric import Metric
from avpipe.metrics.source_annotations import AnnotatedFrame

Map = npt.NDArray[np.floating]
Threshold = Literal["median", "adaptive"] | float

SIDE = 224
"""Pixels a side at which maps and boxes are compared."""
FOUND = 0.5
"""cIoU from which a source counts as found."""
METRICS = {
    "ciou_50": Metric("cIoU@0.5", "%"),
    "auc": Metric("AUC", "%"),
    "mean_ciou": Metric("Mean cIoU", "%"),
    "pointing": Metric("Pointing", "%"),
    "ap": Metric("AP", "%"),
    "max_f1": Metric("Max-F1", "%"),
}
"""The scores of `score_sources`; the field's main one is the first."""


def score_sources(
    truth: Sequence[AnnotatedFrame],
    maps: Mapping[str, Map],
    confidences: Mapping[str, float] | None = None,
    *,
    seconds: float | None = None,
    threshold: Threshold = "median",
) -> dict[str, float]:
    """The scores of `METRICS`, each a fraction 0 to 1. The first four are means over the pictures with a source.

    Args:
        truth: N annotated pictures.
        maps: clip -> (H, W) or (T, H, W), higher where the source is, any size. Of a network's signed activations give the
            absolute values. (T, H, W): map k is about the k-th of T equal parts of the clip. The map at an annotation's time is
            interpolated between the middles of the parts; without a time it is the mean over T.
        confidences: clip -> how sure it is that a source is in the picture; default: the map's maximum.
        seconds: length of the clips; needed for maps over time if annotations have times.
        threshold: "median", "adaptive" or a number from 0 to 1; see the module's text.

    Raises:
        ValueError: if a clip has no map or confidence, a map is not finite or has another shape, or no picture has a source.
    """
    for what, given in (("map", maps), ("confidence", confidences)):
        missing = [] if given is None else sorted({frame.clip for frame in truth if frame.clip not in given})
        if missing:
            raise ValueError(f"{len(missing)} clips have no {what}: {', '.join(missing[:5])}, ...")
    on_screen = np.array([frame.on_screen for frame in truth], bool)
    if not on_screen.any():
        raise ValueError(
            f"none of {len(truth)} annotated pictures has a source, so there is nothing to localize"
        )
    cious, pointed, confidence = np.zeros((3, len(truth)))
    for i, frame in enumerate(truth):
        map_ = map_at(maps[frame.clip], frame.time, seconds, frame.clip)
        confidence[i] = map_.max() if confidences is None else confidences[frame.clip]
        if frame.on_screen:
            large = resized(map_, SIDE, SIDE)
            cious[i] = ciou(large, frame.boxes, agreement=frame.agreement, threshold=threshold)
            pointed[i] = pointing(large, frame.boxes)
    ap, max_f1 = detection_scores((cious >= FOUND) & on_screen, on_screen, confidence)
    found = cious[on_screen]
    return {
        "ciou_50": float(np.mean(found >= FOUND)),
        "auc": area_under_success(found),
        "mean_ciou": float(found.mean()),
        "pointing": float(pointed[on_screen].mean()),
        "ap": ap,
        "max_f1": max_f1,
    }


def parse_threshold(text: str) -> Threshold:
    """A threshold that is given as text. Raises ValueError for another word, or a number outside 0 .. 1."""
    words: dict[str, Threshold] = {"median": "median", "adaptive": "adaptive"}
    if text in words:
        return words[text]
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError(f"threshold: median, adaptive or a number from 0 to 1, not {text!r}")
    return number


def ciou(
    localization: Map, boxes: npt.ArrayLike, *, agreement: int = 1, threshold: Threshold = "median"
) -> float:
    """Consensus intersection over union of a map and boxes, 0 to 1; see the module's text.

    Args:
        localization: (H, W), any size.
        boxes: (K, 4), x0, y0, x1, y1 in 0 .. 1, K > 0. Boxes without a pixel give 0.
        agreement: boxes over a pixel from which it counts fully.
        threshold: "median", "adaptive", or a number from 0 to 1 on the normalised map.
    """
    truth = truth_map(boxes, agreement)
    found = binary_map(localization, threshold, pixels=int(np.count_nonzero(truth)))
    return float(truth[found].sum() / (truth.sum() + np.count_nonzero(found & (truth == 0))))


def truth_map(boxes: npt.ArrayLike, agreement: int = 1) -> npt.NDArray[np.float64]:
    """(224, 224): min(boxes over the pixel / agreement, 1)."""
    covered = np.zeros((SIDE, SIDE))
    for x0, y0, x1, y1 in (np.asarray(boxes) * SIDE).astype(int):
        covered[y0:y1, x0:x1] += 1
    return np.minimum(covered / agreement, 1)


def binary_map(localization: Map, threshold: Threshold, pixels: int) -> npt.NDArray[np.bool_]:
    """(H, W) -> (224, 224): where the map is at least the threshold.

    Args:
        localization: any size.
        threshold: see `ciou`.
        pixels: how many the truth has; "adaptive" finds as many, or half of all if there are none.
    """
    large = resized(localization, SIDE, SIDE)
    if isinstance(threshold, str):
        adaptive = threshold == "adaptive" and pixels > 0
        place = large.size - pixels if adaptive else large.size // 2
        return large >= np.partition(large, place, axis=None)[place]
    low, high = large.min(), large.max()
    return (large - low) / (high - low) >= threshold if high > low else large >= threshold


def pointing(localization: Map, boxes: npt.ArrayLike) -> float:
    """Whether the largest value of the map (H, W), enlarged to 224 x 224, lies in a box: 1 or 0.

    If several pixels are largest, the share of them that lies in a box.
    """
    large = resized(localization, SIDE, SIDE)
    return float(truth_map(boxes)[large == large.max()].mean())


def area_under_success(cious: npt.ArrayLike) -> float:
    """Area under the share of pictures with cIoU >= t, over t = 0, 0.05, .. 1, by the trapezoidal rule."""
    thresholds = 0.05 * np.arange(21)
    shares = np.mean(np.asarray(cious) >= thresholds[:, None], axis=1)
    return float(np.trapezoid(shares, thresholds))


def detection_scores(
    found: npt.NDArray[np.bool_], on_screen: npt.NDArray[np.bool_], confidences: npt.NDArray[np.floating]
) -> tuple[float, float]:
    """AP and max-F1, each 0 to 1; see the module's text.

    Args:
        found: (N,), whether the picture has a source and the map finds it.
        on_screen: (N,), whether the picture has a source.
        confidences: (N,).
    """
    order = np.argsort(-confidences, kind="stable")
    last = np.append(np.diff(confidences[order]) != 0, True)  # equal confidences are claimed together
    right = np.cumsum(found[order])[last]
    claimed = np.flatnonzero(last) + 1
    missed = on_screen.sum() - np.cumsum(on_screen[order])[last]
    precision = right / claimed
    recall = right / np.maximum(right + missed, 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return float(np.sum(best * np.diff(recall, prepend=0.0))), float(f1.max())


def map_at(maps: Map, time: float | None, seconds: float | None, clip: str = "") -> Map:
    """The map (H, W) at a time of a clip; see `score_sources`. `clip` stands in error messages.

    Raises:
        ValueError: if the map has another shape, is not finite, or its length in seconds is needed and not given.
    """
    maps = np.asarray(maps)
    if maps.ndim not in (2, 3) or not maps.size or not np.isfinite(maps).all():
        raise ValueError(
            f"clip {clip}: a map is (H, W) or (T, H, W) of finite numbers, found {maps.shape} {maps.dtype}"
        )
    if maps.ndim == 2:
        return maps
    if time is None:
        return np.asarray(maps.mean(axis=0))
    if seconds is None:
        raise ValueError(
            f"clip {clip}: its annotation is about second {time:g} and its map is over time {maps.shape}; give the "
            "length of the clips in seconds"
        )
    return at_positions(maps, np.array([time / seconds * len(maps) - 0.5]))[0]


def at_positions(maps: Map, positions: npt.NDArray[np.floating]) -> Map:
    """(T, ...) -> (len(positions), ...): linear interpolation between maps; the first and the last one are held.

    Args:
        maps: map k stands at position k.
        positions: any numbers.
    """
    positions = np.clip(positions, 0, len(maps) - 1)
    lower = np.floor(positions).astype(int)
    upper = np.minimum(lower + 1, len(maps) - 1)
    weight = (positions - lower).reshape(-1, *[1] * (maps.ndim - 1))
    return maps[lower] + weight * (maps[upper] - maps[lower])  # in this form, equal values stay equal


def resized(localization: Map, height: int, width: int) -> Map:
    """(H, W) -> (height, width) float64: bilinear, the corner cells on the picture's corners (torch's `align_corners=True`)."""
    values = np.asarray(localization, np.float64)
    if values.shape == (height, width):
        return values
    rows, columns = (
        np.linspace(0, old - 1, new) for old, new in zip(values.shape, (height, width), strict=True)
    )
    return at_positions(at_positions(values, rows).T, columns).T


def enlarged(map_: Map, height: int = SIDE, width: int = SIDE) -> Map:
    """(h, w) -> (height, width) float64: bilinear between the middles of the cells, each of which stands for a part of the
    picture (torch's `align_corners=False`)."""
    rows, columns = (
        (np.arange(new) + 0.5) / new * old - 0.5 for old, new in zip(map_.shape, (height, width), strict=True)
    )
    return at_positions(at_positions(np.asarray(map_, np.float64), rows).T, columns).T


def whole_image() -> Map:
    """Baseline: everything sounds. (1, 1); pointing is the boxes' share of the picture."""
    return np.ones((1, 1))


def centre() -> Map:
    """Baseline: what sounds is in the middle. (224, 224), a round Gaussian whose standard deviation is a quarter of the side.

    With the median or the adaptive threshold, any map that falls off evenly from the middle gives the same scores.
    """
    squares = ((np.arange(SIDE) + 0.5) / SIDE - 0.5) ** 2
    return np.exp(-(squares[:, None] + squares) / (2 * 0.25**2))


def frame_difference(frames: npt.NDArray[np.uint8]) -> Map:
    """Baseline: what moves sounds. The mean over time and colours of the absolute difference between consecutive frames.

    Args:
        frames: (T, H, W, 3), T > 1.

    Returns:
        (H, W) float64.
    """
    total = np.zeros(frames.shape[1:3])
    for before, after in itertools.pairwise(frames):
        total += np.abs(after.astype(np.int16) - before).mean(axis=-1)
    return total / (len(frames) - 1)
