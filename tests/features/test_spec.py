import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avpipe.features import spec, visual
from avpipe.plan import fingerprint
from avpipe.plan.extractor import ExtractorConfig
from avpipe.plan.registry import UnknownNameError
from avpipe.plan.section import ConfigError


def config(backbone: str, **options: object) -> ExtractorConfig:
    return ExtractorConfig.model_validate({"backbone": backbone, **options})


@pytest.mark.parametrize(
    ("backbone", "options", "shape"),
    [
        ("vggish", {}, (10, 128)),
        ("vggish", {"fps": 16, "average": False}, (10, 128)),
        ("resnet152", {}, (10, 2048)),
        ("resnet152", {"fps": 8, "average": False}, (10, 8, 2048)),
        ("resnet152", {"pooling": "map"}, (10, 7, 7, 2048)),
        ("vgg19", {"pooling": "map", "fps": 16}, (10, 7, 7, 512)),
        ("vgg19", {"pooling": "map", "fps": 4, "average": False}, (10, 4, 7, 7, 512)),
        ("r2plus1d_18", {"fps": 8, "image_size": 112, "average": False}, (10, 512)),
    ],
)
def test_shape_of_a_clip(backbone: str, options: dict[str, object], shape: tuple[int, ...]) -> None:
    chosen = config(backbone, **options)
    assert spec.feature_shape(chosen) == shape
    assert len(spec.dimension_names(chosen)) == len(shape) + 1
    assert spec.chunk_path(chosen, 3) == "c/3" + "/0" * len(shape)


def test_a_shard_may_be_a_wildcard() -> None:
    assert spec.chunk_path(config("vggish"), "{shard}") == "c/{shard}/0/0"


@settings(max_examples=25, deadline=None)
@given(size=st.integers(32, 300), backbone=st.sampled_from(["resnet18", "vgg16"]))
def test_map_size_is_the_networks(size: int, backbone: str) -> None:
    trunk = visual._trunk(visual._architecture(backbone)).eval()
    found = trunk(torch.empty(1, 3, size, size, device="meta"))
    expected = spec.feature_shape(config(backbone, pooling="map", image_size=size))
    assert (10, *found.permute(0, 2, 3, 1).shape[1:]) == expected


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("resnet125", {}, r"extractors.x.backbone: unknown backbone 'resnet125'; did you mean 'resnet152'"),
        ("vggish", {"pooling": "map"}, "extractors.x.pooling: vggish has no spatial map"),
        ("r3d_18", {"pooling": "map", "fps": 8}, "r3d_18 has no spatial map"),
        ("resnet18", {"pca": True}, "pca: only vggish"),
        ("vggish", {"pca": True, "weights": "random"}, "pca: the published PCA belongs"),
        ("vgg16", {"last_relu": False}, "last_relu: only vggish"),
        ("r3d_18", {"fps": 1}, "fps: r3d_18 takes the frames of a segment as one clip"),
        ("resnet18", {"fps": 3}, "fps: must divide 16"),
    ],
)
def test_options_that_do_not_go_together(backbone: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec.check_extractors({"good": config("vggish"), "x": config(backbone, **options)})


def test_unknown_backbone_has_no_shape() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'resnet50'"):
        spec.feature_shape(config("resnet5"))


@pytest.mark.parametrize("backbone", spec.BACKBONES)
def test_published_settings_are_valid(backbone: str) -> None:
    spec.check_extractors({backbone: spec.published_config(backbone)})


def test_extraction_does_not_import_the_networks_that_it_loads_by_name() -> None:
    sound, look = (spec.NETWORKS[kind].split(":")[0] for kind in ("audio", "2d"))
    assert not fingerprint.import_closure("avpipe.features.extract") & {sound, look}
    assert look not in fingerprint.import_closure(sound)
    assert "avpipe.media.logmel" in fingerprint.import_closure(sound)


def test_importing_the_package_is_light() -> None:
    code = "import sys, avpipe.features.spec; print([m for m in ('torch', 'zarr', 'pandas', 'numpy') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
