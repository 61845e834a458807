import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from efficientformer.errors import InputError
from efficientformer.report import write_report
from efficientformer.search.space.actions import Action

CHECKS = (
    Action("remove_attention", 2, 1),
    (1, 1.9, 2.85, 1.5),
    Action("remove_block", 1, 0, importance=0.5),
    (2, 1.8, 1.44, 1.2),
)


def page(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def words(html: str) -> str:
    """What a reader sees of a page."""
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL)
    return " ".join(text.replace("\xa0", " ").replace("&nbsp;", " ").split())


@pytest.fixture(scope="module")
def plain_page(plain_run: Path) -> str:
    return page(plain_run)


def test_report_is_written_whole_into_the_run(make_run):
    run = make_run()
    path = write_report(run)
    assert path == run / "report.html"
    assert write_report(run) == path
    assert not list(run.glob("*.partial"))


@pytest.mark.parametrize(
    "told",
    [
        "Budget met",
        "takes 1.500 ms here; the budget was 2.000 ms.",
        "90.0 % of 150 validation images correctly (95 % interval 86.0–93.0 %)",
        "MobileNetV2 took 2.000 ms, so this one needs 0.75 of its time",
        "n = 21, stable",
        "onnxruntime · cpu · 1 thread · fp32",
        "A processor, 2 cores",
        "4 March 2026, 05:06 UTC",
        "efficientformer 0.1.0",
        "timed with random weights",
        "1.440–1.560",
        "outputs differ by 4.6 × 10⁻⁷ of the largest",
        "short side to 73 pixels (bicubic), centre crop of 64×64",
        "one image is 0.5 points",
        "--min-area 0.7 --no-flip --tau-start 2.0",
        "the figure can be quoted",
        "700",
        "Unreadable none",
    ],
)
def test_page_tells(plain_page: str, told: str):
    assert told in words(plain_page)


def test_every_step_is_there_with_what_it_turned_down(plain_page: str):
    text = words(plain_page)
    for told in (
        "block 1 of stage 3: attention → pooling",
        "remove block 0 of stage 2",
        "narrow stage 4 to 32",
        "block 0 of stage 4: attention → pooling",
    ):
        assert told in text
    assert text.count("turned down: narrow stage 1 to 8") == 4
    assert "48 → 32 channels, step 3" in text
    assert "was attention step 4" in text


def test_checks_are_told_with_both_scales(make_run):
    text = words(page(make_run(CHECKS)))
    assert "step 1 exported and measured: predicted 1.900 ms, took 2.850 ms (+50 %)" in text
    assert "1.000 → 1.500 → 1.200" in text


def test_page_loads_nothing_and_tells_no_paths(make_run):
    def change(summary: dict[str, Any]) -> None:
        path = summary["job"]["data"] + "/ash/1.png"
        summary["data"]["unreadable"] = [f"{path}: cannot identify '{path}'", "/mnt/x/ash/2.png: truncated"]

    html = page(make_run(change=change))
    assert not re.search(r"https?://|//[a-z]|<script|@import|url\(", html)
    assert "somebody" not in html
    assert "/mnt" not in html
    assert "ash/1.png: cannot identify &#39;ash/1.png&#39;" in html
    assert "ash/2.png: truncated" in html
    assert "--data flowers" in html


def test_receipts_of_both_formats_give_the_same_page(make_run, plain_run):
    def change(summary: dict[str, Any]) -> None:
        for one in summary["contenders"]:
            one["latency"]["conditions"] = {"load": one["latency"].pop("load")}

    assert page(make_run(change=change)) == page(plain_run)


def test_text_from_outside_is_escaped(make_run):
    def change(summary: dict[str, Any]) -> None:
        summary["job"]["data"] = "/data/<i>photos"
        summary["data"]["unreadable"] = ["<u>x.png: broken"]
        summary["fingerprint"]["processor"] = "<s>processor"
        summary["contenders"][2]["name"] = "timm/<em>"

    html = page(make_run(change=change))
    assert not re.search(r"<(b>bold|i>photos|u>x|s>proc|em>)", html)
    for told in (
        "&lt;b&gt;bold&lt;/b&gt;",
        "&lt;i&gt;photos",
        "&lt;u&gt;x.png",
        "&lt;s&gt;proc",
        "timm/&lt;em&gt;",
    ):
        assert told in html


@pytest.mark.parametrize(("events", "chosen"), [((), 0), (CHECKS, 1), (CHECKS, 2), (CHECKS[:1], -1)], ids=str)
def test_drawings_are_well_formed(make_run, events, chosen: int):
    html = page(make_run(events, chosen))
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) > 6
    for drawing in drawings:
        assert "nan" not in drawing
        ElementTree.fromstring(drawing)


class Balance(HTMLParser):
    """Fails where a tag is closed that was not the last one opened."""

    VOID = frozenset(("meta", "link", "br"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()


def test_tags_are_closed(make_run):
    balance = Balance()
    balance.feed(page(make_run(CHECKS)))
    assert balance.open == []


def test_a_network_that_fits_at_once_needs_no_step(make_run):
    text = words(page(make_run(())))
    assert "The unslimmed network fits the budget as it is" in text
    assert "start: the unslimmed network" in text


def test_steps_beyond_the_network_found_are_told_apart(make_run):
    html = page(make_run(chosen=2))
    assert "The search had gone 2 further" in words(html)
    assert html.count('<tr class="beyond">') == 2
    assert "48 → 32 channels" not in words(html)


def test_what_was_not_trained_says_so(make_run, plain_page: str):
    def nothing_trained(summary: dict[str, Any]) -> None:
        summary["accuracy"] = dict.fromkeys(summary["accuracy"])

    assert "Unslimmed, trained not trained" in words(plain_page)
    assert "1.23 M 7.65 M not trained" in words(plain_page)
    assert "Slimmed, trained not trained" in words(page(make_run(change=nothing_trained)))
    assert "90.0 % of 150" in words(page(make_run(change=nothing_trained)))


def test_a_run_without_a_peer(make_run):
    text = words(page(make_run(change=lambda summary: summary["contenders"].pop())))
    assert "MobileNetV2" not in text
    assert "the unslimmed network it came from took 3.000 ms" in text


def test_a_missed_budget_is_told(make_run):
    text = words(page(make_run(change=lambda summary: summary.update(budget_ms=1.4))))
    assert "Budget missed" in text
    assert "Budget met" not in text


def test_the_page_survives_samples_that_are_all_the_same(make_run):
    def change(summary: dict[str, Any]) -> None:
        summary["budget_ms"] = 1.5
        for one in summary["contenders"]:
            figures = {"median_ms": 1.5, "p10_ms": 1.5, "p90_ms": 1.5, "interval_ms": [1.5, 1.5]}
            one["latency"] |= figures | {"samples_ms": [1.5] * 5}

    assert "Too close to call" in words(page(make_run(change=change)))


@pytest.mark.parametrize("missing", ["summary.json", "preflight.json", "journal.jsonl"])
def test_a_run_that_is_not_finished_is_refused(make_run, missing: str):
    run = make_run()
    (run / missing).unlink()
    with pytest.raises(InputError, match=rf"holds no finished run \({missing} is missing\)"):
        write_report(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", "{", "damaged"),
        ("summary.json", "[]", "no JSON object"),
        ("summary.json", '{"format": "x"}', "is no summary of"),
        ("summary.json", '{"format": "efficientformer.summary/1"}', "a value is missing .*'job'"),
        ("preflight.json", "{}", "a value is missing .*'greatest'"),
        ("journal.jsonl", "", "holds no search"),
        ("journal.jsonl", '{"event": "start"}\n', "is no journal of"),
        ("journal.jsonl", "{\n", "damaged"),
    ],
)
def test_a_damaged_run_is_refused(make_run, name: str, content: str, message: str):
    run = make_run()
    (run / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def test_a_journal_of_another_run_is_refused(make_run):
    run = make_run()
    document = json.loads((run / "summary.json").read_text()) | {"architecture": "8:P"}
    (run / "summary.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="never came to 8:P"):
        write_report(run)
