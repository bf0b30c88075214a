"""Preprocessing against PIL and torchvision, features against the networks themselves."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms import v2

from avpipe.features import visual
from avpipe.features.backbones import create_extractor
from avpipe.features.visual import NORMALISATION, VisualExtractor, resized
from avpipe.plan.extractor import ExtractorConfig

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("drawn_once")


def pictures(count: int, height: int = 60, width: int = 80) -> torch.Tensor:
    coarse = np.random.default_rng(1).integers(0, 256, (count, height // 5, width // 5, 3), np.uint8)
    return torch.from_numpy(coarse.repeat(5, 1).repeat(5, 2))


def extractor(backbone: str, **options: object) -> VisualExtractor:
    chosen = {"backbone": backbone, "weights": "random", "image_size": 48, **options}
    found = create_extractor(ExtractorConfig.model_validate(chosen), CPU, None)
    assert isinstance(found, VisualExtractor)
    return found


@pytest.mark.parametrize("size", [32, 48, 112])
def test_squash_is_pils_bilinear(size: int) -> None:
    frames = pictures(2)
    expected = np.stack(
        [np.asarray(Image.fromarray(f.numpy()).resize((size, size), Image.BILINEAR)) for f in frames]
    )
    difference = np.abs(resized(frames, size, "squash").numpy().astype(int) - expected)
    assert difference.max() <= 1


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (70, 70)])
def test_crop_is_torchvisions_resize_and_centre_crop(height: int, width: int) -> None:
    frames = pictures(2, height, width)
    recipe = v2.Compose([v2.Resize(64, antialias=True), v2.CenterCrop(56)])  # 256 and 224, divided by 4
    expected = recipe(frames.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    found = resized(frames, 56, "crop")
    assert found.shape == (2, 56, 56, 3)
    assert (found.int() - expected.int()).abs().max() <= 1


def test_pictures_of_the_right_size_stay_as_they_are() -> None:
    frames = pictures(2, 50, 50)
    assert torch.equal(resized(frames, 50, "squash"), frames)


def test_resnet_features_are_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vector and map against torchvision's own forward with hooks, on its own preprocessing."""
    found = extractor("resnet18", image_size=56, resize="crop")
    network = torchvision.models.resnet18(weights=None).eval()
    state = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    trunk = _trunk_state(found)
    renamed = {".".join([state[k.split(".")[0]], *k.split(".")[1:]]): v for k, v in trunk.items()}
    network.load_state_dict(renamed, strict=False)
    network.fc = torch.nn.Identity()
    mean, deviation = NORMALISATION["2d"]
    recipe = v2.Compose(
        [
            v2.Resize(64, antialias=True),
            v2.CenterCrop(56),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, deviation),
        ]
    )
    frames = pictures(3)
    with torch.inference_mode():
        expected = network(recipe(frames.permute(0, 3, 1, 2)))
        torch.testing.assert_close(found(frames[:, None]), expected, rtol=1e-3, atol=1e-3)


def _trunk_state(found: VisualExtractor) -> dict[str, torch.Tensor]:
    """The drawn weights, before folding: the same seed draws them again."""
    return visual.random_trunk(found.config.backbone, found.config.seed).state_dict()


def test_vgg_map_is_the_last_pooling_and_its_mean_the_vector() -> None:
    frames = pictures(4)[:, None]
    cells, vector = extractor("vgg16", pooling="map", image_size=64), extractor("vgg16", image_size=64)
    with torch.inference_mode():
        found, pooled = cells(frames), vector(frames)
    assert found.shape == (4, 2, 2, 512)
    torch.testing.assert_close(found.mean((1, 2)), pooled)
    reference = torchvision.models.vgg16(weights=None).features.eval()
    reference.load_state_dict(_trunk_state(cells))
    mean, deviation = (torch.tensor(x) for x in NORMALISATION["2d"])
    normal = (resized(frames[:, 0], 64, "squash") / 255 - mean) / deviation
    with torch.inference_mode():
        expected = reference(normal.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_average_is_the_mean_of_the_frames() -> None:
    segments = pictures(8).unflatten(0, (2, 4))
    apart, together = extractor("resnet18", fps=4, average=False), extractor("resnet18", fps=4)
    with torch.inference_mode():
        kept, averaged = apart(segments), together(segments)
    assert kept.shape == (2, 4, 512)
    torch.testing.assert_close(kept.mean(1), averaged)


def test_3d_networks_see_a_segment_as_one_clip() -> None:
    found = extractor("r3d_18", fps=4, image_size=50)
    segments = pictures(8, 50, 50).unflatten(0, (2, 4))
    network = torchvision.models.video.r3d_18(weights=None).eval()
    names = {"0": "stem", "1": "layer1", "2": "layer2", "3": "layer3", "4": "layer4"}
    trunk = _trunk_state(found)
    renamed = {".".join([names[k.split(".")[0]], *k.split(".")[1:]]): v for k, v in trunk.items()}
    network.load_state_dict(renamed, strict=False)
    network.fc = torch.nn.Identity()
    mean, deviation = (torch.tensor(x) for x in NORMALISATION["3d"])
    clips = ((segments / 255 - mean) / deviation).permute(0, 4, 1, 2, 3)
    with torch.inference_mode():
        torch.testing.assert_close(found(segments), network(clips), rtol=1e-3, atol=1e-3)
        assert not torch.allclose(found(segments), found(segments.flip(1)), atol=1e-3)  # time has a direction
