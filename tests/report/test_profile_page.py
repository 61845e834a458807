"""The page of a profile: every figure on it, in one file that loads nothing."""

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from efficientformer.profile import Profile
from efficientformer.profile.result import BlockTime
from efficientformer.report.profile_chart import block_bars, slug, stage_of, strip, used_sorts
from efficientformer.report.profile_page import render_profile, write_profile
from tests.profile.test_profile import PIECES, made, receipt


def alone() -> Profile:
    blocks = tuple(
        BlockTime(piece, ms, ms / 4, 0, receipt=receipt(ms))
        for piece, ms in zip(PIECES, (1.0, 2.0, 1.0), strict=True)
    )
    untold = dataclasses.replace(made(), profiler="", profiled=None, operators=(), kinds=())
    return dataclasses.replace(untold, blocks=blocks, why_alone="no tracer", call_ms=0.25)


def test_the_page_tells_it_all(tmp_path: Path) -> None:
    taken = made()
    page = write_profile(taken, tmp_path / "new" / "page.html").read_text()
    assert "Where net’s 12.50 ms go" in page
    assert "80.0 % of the whole" in page and "+20 %" in page
    for finding in taken.findings:
        assert finding.text[1:].replace("'", "&#39;") in page
    for one in taken.blocks:
        assert one.piece.name in page
    for one in taken.operators:
        assert one.operator.name in page
    assert "n&nbsp;=&nbsp;42" in page and ">stable<" in page


@pytest.mark.parametrize("taken", [made(), alone()], ids=["profiled", "alone"])
def test_it_loads_nothing_and_is_well_formed(taken: Profile) -> None:
    page = render_profile(taken)
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "<script" not in page
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_blocks_that_were_timed_alone_are_said_to_be() -> None:
    page = render_profile(alone())
    assert "each block was timed alone" in page and "no tracer" in page
    assert "0.250 <small>ms</small></strong>taken off each block" in page
    assert "By kind of operator" not in page


def test_a_noisy_whole_is_warned_of() -> None:
    page = render_profile(made(whole=receipt(12.5, spread=0.9)))
    assert "The timing of the whole is unusable." in page


@pytest.mark.parametrize("width", [920, 372])
def test_the_strip_is_as_long_as_the_operators(width: float) -> None:
    drawing = ElementTree.fromstring(strip(made(), width))
    pieces = [one for one in drawing.iter("rect") if "sort-" in one.attrib["class"]]
    operators = [one for one in pieces if "sort-stage" not in one.attrib["class"]]
    assert len(pieces) - len(operators) == 4  # stem, stages.0, head, and what belongs to none
    assert len(operators) == 4 + len(made().operators)
    last = max(float(one.attrib["x"]) + float(one.attrib["width"]) for one in pieces)
    assert last == pytest.approx(width, abs=1)


def test_each_block_has_a_bar_split_by_sort() -> None:
    taken = made()
    drawing = ElementTree.fromstring(block_bars(taken, 920))
    bars = list(drawing.iter("rect"))
    assert len(bars) == sum(len(one.sorts) for one in taken.blocks)
    assert used_sorts(taken) == [
        "convolution",
        "norm",
        "activation",
        "elementwise",
        "shape",
        "conversion",
        "fallback",
    ]
    assert slug("matrix product") == "sort-matrix-product" and slug("") == "sort-whole"


@pytest.mark.parametrize(
    ("block", "stage"),
    [("stages.2.blocks.1", "stages.2"), ("blocks.2.0", "blocks.2"), ("stem", "stem"), ("blocks.3", "blocks")],
)
def test_blocks_stand_in_stages(block: str, stage: str) -> None:
    assert stage_of(block) == stage
