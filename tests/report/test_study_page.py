"""The study's page tells what the study found, loads nothing, and survives what can be missing."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from efficientformer.errors import InputError
from efficientformer.files import write_json
from efficientformer.report.study_chart import TONES
from efficientformer.report.study_page import MEANINGS, headline, render, repeat_command, write_study
from efficientformer.study.results import Study
from tests.report.test_page import Balance, words
from tests.study.made import HERE, made

THERE = "openvino:cpu:threads=2:precision=fp32"
STEMS = ("four 3×3, LeViT-256’s widths", "four 3×3, thin (12, 24, 48)", "two 3×3, L1’s stem")
STEMS = (*STEMS, "two 3×3, thin (12)", "two 3×3, thin (4)")
RATIOS = dict.fromkeys(STEMS, 2.0) | {"ReLU": 0.8, "HardSwish": 1.5, "SiLU": 0.5}


@pytest.fixture(scope="module")
def study() -> Study:
    return made(RATIOS, {"tanh-GELU": "ONNX: the network <cannot> be exported"})


@pytest.fixture(scope="module")
def both() -> Study:
    return made(RATIOS, {"HardSwish": "no operator for it"}, targets=(HERE, THERE))


@pytest.mark.parametrize(
    "told",
    [
        "one holds here, one is reversed, one makes no difference and one holds in part",
        "1 · Patch embedding",
        "6 reversed",
        "4 same as the paper",
        "a stack of 3×3 stride-2 convolutions has 48 % lower latency",
        "arXiv 2206.01191",
        "To 1/16 of the resolution: one 16×16 convolution, or a stack of four 3×3",
        "No gain here: one 16×16 convolution costs less",
        "ReLU saves time over GELU here: worth a training run.",
        "cannot be expressed",
        "ONNX: the network &lt;cannot&gt; be exported",
        "2 variants cannot be expressed on onnxruntime",
        "onnxruntime · cpu · 1 thread · fp32",
        "A processor, 2 cores, Linux x86_64; onnxruntime 1.31.1, exported by torch 2.13.0",
        "4 March 2026, 05:06 UTC",
        "60 of each variant in 12 rounds; 3 launches, each process kept on processors of its own",
        "51 stable",
        "efficientformer study --from study",
        "nothing was measured for this page",
        "0.83 (L3)",
    ],
)
def test_the_page_tells(study: Study, told: str) -> None:
    assert told in words(render(study))


def test_every_row_is_there_with_its_figures(study: Study) -> None:
    html = render(study)
    for tried in study.experiments:
        assert f'id="{tried.name}"' in html
        for row in tried.trials[0].comparisons:
            if row.ratio:
                assert f"{row.ratio.value:.2f}" in html
                assert f"{row.ratio.low:.2f}–{row.ratio.high:.2f}" in html


def test_the_page_loads_nothing_and_closes_its_tags(study: Study, both: Study) -> None:
    for html in (render(study), render(both)):
        assert not re.search(r"https?://|//[a-z]|<script|@import|url\(", html)
        balance = Balance()
        balance.feed(html)
        assert balance.open == []


def test_drawings_are_well_formed(both: Study) -> None:
    drawings = re.findall(r"<svg.*?</svg>", render(both), flags=re.DOTALL)
    assert len(drawings) == 2 * 2 * (1 + len(both.experiments))  # wide and narrow, two targets
    for drawing in drawings:
        assert "nan" not in drawing
        ElementTree.fromstring(drawing)


def test_targets_stand_side_by_side(both: Study) -> None:
    text = words(render(both))
    assert "Four observations of the paper on two targets." in text
    assert "All targets, side by side" in text
    assert text.count("openvino · cpu · 2 threads · fp32") > 10
    assert "2 variants cannot be expressed on openvino" in text


def test_undecided_rows_say_why_and_the_page_warns() -> None:
    text = words(render(made(RATIOS, noise=0.6)))
    assert "Of the paper’s four observations, all four are not decided." in text
    assert "53 of 53 timings on onnxruntime · cpu · 1 thread · fp32 are unusable" in text
    assert "Timing of “one 16×16 convolution” unusable" in text
    assert "patch-16, one 16×16 convolution: the interquartile range is" in text


def test_a_target_on_which_nothing_runs_still_has_a_page() -> None:
    experiments = made().experiments
    names = {facts.name: "no" for tried in experiments for facts in tried.variants}
    text = words(render(made(failures=names)))
    assert "53 variants cannot be expressed" in text
    assert "all four are not decided" in text


def test_every_verdict_has_a_meaning_and_a_colour(study: Study) -> None:
    assert MEANINGS.keys() == TONES.keys()
    text = words(render(study))
    assert "it goes the other way" in text
    assert "a timing is unusable" not in text  # only verdicts that occur are explained


@pytest.mark.parametrize(
    ("ratios", "told"),
    [
        ({}, "Of the paper’s four observations, three make no difference and one holds in part."),
        (dict.fromkeys(STEMS, 0.5), "one holds here, two make no difference and one holds in part."),
    ],
)
def test_headlines(ratios: dict[str, float], told: str) -> None:
    assert told in headline(made(ratios))


def test_part_of_a_study_is_repeated_as_that_part(study: Study) -> None:
    part = dataclasses.replace(
        study, experiments=study.experiments[:1], observations=study.observations[:1], targets=(HERE,)
    )
    assert repeat_command(study) == f"efficientformer study \\\n    --target {HERE} \\\n    --out study"
    assert "--experiment patch-16" in repeat_command(part)
    assert headline(part) == "Of the paper’s one observation, one is reversed."


def test_the_page_is_written_beside_its_study(tmp_path: Path, study: Study) -> None:
    write_json(tmp_path / "study.json", study.to_json())
    page = write_study(tmp_path)
    assert page == tmp_path / "study.html"
    assert page.read_text(encoding="utf-8") == render(study)
    assert write_study(tmp_path / "study.json") == page
    with pytest.raises(InputError, match="cannot be read"):
        write_study(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
