"""The main job on real photographs and the real clock."""

import json
import zipfile
from pathlib import Path

import pytest

from efficientformer.cli import main

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "imagenette-160.zip"
CLASSES, TRAIN, VAL = 3, 60, 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # it measures until the machine is quiet
    pytest.mark.real_data,
    pytest.mark.skipif(not PHOTOS.is_file(), reason=f"the photographs are not here: {PHOTOS.name}"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few photographs of a few classes."""
    root = tmp_path_factory.mktemp("imagenette")
    with zipfile.ZipFile(PHOTOS) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".webp"))
        classes = sorted({name.split("/")[1] for name in names})[:CLASSES]
        for part, count in (("train", TRAIN), ("val", VAL)):
            for one in classes:
                inside = [name for name in names if name.startswith(f"{part}/{one}/")]
                archive.extractall(root, inside[:count])
    return root


def test_the_exported_file_meets_the_budget(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = f"slim --data {folder} --out {out} --budget 40% --input-size 64 --supernet xs --width-step 32"
    words += " --kinds pool,attention --expansions 4 --evaluations 24 --supernet-epochs 2 --epochs 2 --json"
    assert main(words.split()) == 0
    printed = json.loads(capsys.readouterr().out)
    summary = json.loads((out / "summary.json").read_text())
    assert printed["measured_ms"] == summary["measured_ms"] <= 1.02 * summary["budget_ms"]
    assert summary["samples"] >= 100
    assert summary["images"] == CLASSES * VAL
    assert summary["artefact"]["max_difference"] <= 1e-4
    assert {one["name"] for one in summary["contenders"]} == {"slimmed", "unslimmed", "timm/mobilenetv2_100"}
    assert main(["replay", str(out), "--json"]) == 0
    assert "<html" in (out / "report.html").read_text()
