"""A study of imported features: no clip is fetched, and the same features give the same table."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from avpipe.features.export import Form, export_ave

from .conftest import Checkout

pytestmark = pytest.mark.slow


def imported_study(checkout: Checkout) -> Path:
    """Export the study's features as h5 files and make a study `again` that reads them instead of clips."""
    export_ave(
        {"sound": "audio", "look": "visual"}, checkout.root / "results/small", checkout.root / "h5", Form()
    )
    shapes = {"sound": ("audio", [10, 128]), "look": ("visual", [10, 512])}
    study = yaml.safe_load((checkout.root / "study.yaml").read_text())
    study |= {
        "dataset": {"name": "again", "kind": "ave", "annotations": "data/annotations"},
        "imported": {
            name: {"path": f"h5/{file}.h5", "format": "h5", "shape": shape}
            for name, (file, shape) in shapes.items()
        },
    }
    del study["extractors"], study["bundles"]
    (checkout.root / "study.yaml").write_text(yaml.safe_dump(study))
    return checkout.root / "results" / "again"


def test_exported_features_imported_again_give_the_same_numbers_without_a_clip(checkout):
    results = imported_study(checkout)
    (checkout.root / "data" / "clips").rename(checkout.root / "elsewhere")
    checkout.run()
    assert sorted(path.name for path in results.iterdir() if path.name in ("downloads", "segments")) == []
    assert set(pd.read_parquet(results / "clips.parquet")["status"]) == {"not_fetched"}
    first, second = (
        pd.read_csv(checkout.root / "results" / name / "tables" / "small.csv") for name in ("small", "again")
    )
    measured = ["row", "setting", "metric", "mean", "sd", "n_seeds"]
    pd.testing.assert_frame_equal(first[measured], second[measured])
    for file in (checkout.root / "results/small/features/sound.zarr/c").rglob("0"):
        if file.is_file():
            inside = file.relative_to(checkout.root / "results/small")
            assert (results / inside).read_bytes() == file.read_bytes()
    assert "Nothing to be done" in checkout.run().stderr
    (checkout.root / "h5" / "visual.h5").touch()
    planned = checkout.run("-n").stdout
    assert "rule inspect_look" in planned
    assert "import_sound" not in planned
