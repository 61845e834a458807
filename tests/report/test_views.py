"""The plain values behind the page: the path at one scale, what became of blocks, layers, words."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from efficientformer.layers import KINDS
from efficientformer.report import wording
from efficientformer.report.blocks import stage_stories
from efficientformer.report.charts import binned
from efficientformer.report.layers import layer_groups
from efficientformer.report.receipt import concerns, repeat_command, shown_files
from efficientformer.report.story import read_story
from efficientformer.report.svg import MARKERS, Axis, axis
from efficientformer.report.trail import Trail, read_trail
from efficientformer.search.policies.search import POLICIES
from efficientformer.search.space.actions import Action, ActionKind

POOL, REMOVE = Action("remove_attention", 2, 1), Action("remove_block", 1, 0)


def trail(run: Path) -> Trail:
    return read_story(run).trail


def test_figures_are_brought_to_the_last_scale(make_run):
    run = make_run((POOL, (1, 1.9, 2.85, 1.5), REMOVE, (2, 1.8, 1.44, 1.2)))
    points = trail(run).path
    assert trail(run).first_scale == pytest.approx(1.0)
    assert [point.latency_ms for point in points] == pytest.approx([2.0 * 1.2, 1.9 * 1.2, 1.8 * 1.2 / 1.5])
    assert [point.latency_ms for point in trail(run).turned_down] == pytest.approx([1.95 * 1.2, 1.95 * 0.8])


def test_the_first_scale_of_a_shared_table_is_found(make_run):
    run = make_run((POOL, (1, 1.9, 2.0, 0.8)))  # 1.9 predicted at 0.76 of what would be 2.5
    journal = run / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        if line["event"] == "step":
            del line["scale"]  # as version 0.1 wrote them
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert trail(run).first_scale == pytest.approx(0.76)
    assert trail(run).path[1].latency_ms == pytest.approx(2.0)


def test_figures_stay_as_they_are_without_checks(make_run):
    assert [point.latency_ms for point in trail(make_run()).path] == pytest.approx([2.0, 1.9, 1.8, 1.7, 1.6])


def test_the_network_found_may_lie_before_the_end(make_run):
    run = make_run(chosen=3)
    assert (trail(run).chosen, len(trail(run).steps)) == (3, 4)


def test_a_line_cut_short_is_left_out(make_run):
    run = make_run(chosen=3)
    whole = (run / "journal.jsonl").read_bytes()
    (run / "journal.jsonl").write_bytes(whole[:-40])
    assert len(read_trail(run / "journal.jsonl", str(trail(run).steps[2].architecture.compact())).steps) == 3


def test_fates_of_blocks(make_run):
    stages = stage_stories(trail(make_run()))
    fates = [[cell.fate for cell in stage.cells] for stage in stages]
    assert fates == [["kept"] * 2, ["removed", "kept"], ["kept", "changed"], ["changed", "kept"]]
    assert stages[1].cells[0].text == "pooling → removed (step 2)"
    assert stages[2].cells[1].text == "attention → pooling (step 1)"
    assert stages[3].cells[1].text == "attention, kept"
    assert [(stage.width_was, stage.width_now, stage.narrowed) for stage in stages][3] == (48, 32, (3,))
    assert [stage.depth_now for stage in stages] == [2, 1, 2, 2]


def test_a_block_may_change_twice(make_run):
    run = make_run((POOL, Action("remove_block", 2, 1, importance=0.1)))
    cell = stage_stories(trail(run))[2].cells[1]
    assert (cell.fate, cell.text) == ("removed", "attention → pooling (step 1) → removed (step 2)")


def test_layers_stand_side_by_side_by_name(make_run):
    groups = read_story(make_run()).layers
    assert [group.title for group in groups] == ["Stem", "Stage 1", "Stage 2", "Stage 3", "Stage 4", "Head"]
    labels = [(row.label, row.slimmed, row.unslimmed) for row in groups[2].rows]
    assert labels == [
        ("", "embed 16 @16×16", "embed 16 @16×16"),
        ("block 0", None, "pool 16 @8×8"),
        ("block 1", "pool 16 @8×8", "pool 16 @8×8"),
    ]


def test_layers_come_in_order_of_execution(make_run):
    story = read_story(make_run())
    unslimmed = story.summary["layers"]["unslimmed"]
    shown = [row.unslimmed for group in story.layers for row in group.rows if row.unslimmed]
    assert shown == [layer["layer"] for layer in unslimmed]
    assert all(layer["kind"] in KINDS for layer in unslimmed)
    total = sum(layer["table_ms"] for layer in unslimmed)
    assert sum(group.unslimmed_ms for group in story.layers) == pytest.approx(total)


def test_layers_of_an_unknown_name_are_not_lost():
    odd = [{"name": "neck", "layer": "neck 3", "table_ms": 1.0}]
    (group,) = layer_groups({"slimmed": odd, "unslimmed": []})
    assert group.rows[0].slimmed == "neck 3"


def set_receipt(summary: dict[str, Any], name: str, **figures: Any) -> None:
    next(one for one in summary["contenders"] if one["name"] == name)["latency"] |= figures


@pytest.mark.parametrize(
    ("change", "title"),
    [
        (lambda s: None, None),
        (lambda s: s.update(verdict="noisy"), "The timing is noisy"),
        (lambda s: s.update(predicted_ms=1.2), "The prediction was off"),
        (lambda s: set_receipt(s, "slimmed", interval_ms=[1.9, 2.1]), "Too close to call"),
        (
            lambda s: (
                s.update(budget_ms=2.0, tolerance=0.1) or set_receipt(s, "slimmed", interval_ms=[1.9, 2.1])
            ),
            None,
        ),
        (lambda s: set_receipt(s, "unslimmed", median_ms=2.0), "The machine changed its pace during the run"),
        (lambda s: s["data"].update(unreadable=["a: b"]), "1 file could not be read"),
    ],
)
def test_concerns(make_run, change, title: str | None):
    found = read_story(make_run(change=change)).concerns
    assert [concern.title for concern in found] == ([title] if title else [])


def test_measurements_that_disagree_are_a_concern(make_run):
    run = make_run(((0, 2.0, 3.0, 1.5), (0, 3.0, 2.0, 1.0)), 0)
    story = read_story(run)
    titles = [one.title for one in concerns(story.summary, story.preflight, story.trail)]
    assert titles == ["Measurements during the search disagree"]


@pytest.mark.parametrize(
    ("job", "command"),
    [
        ({"data": "/a/b"}, "efficientformer slim --data b"),
        ({"data": "/a/b c", "format": "x"}, "efficientformer slim --data 'b c'"),
        ({"data": "b", "budget": "50%"}, "efficientformer slim --data b --budget 50%"),
        ({"data": "b", "stems": [], "expansions": []}, "efficientformer slim --data b --expansions ''"),
        ({"data": "b", "train_unslimmed": True}, "efficientformer slim --data b --train-unslimmed"),
        (
            {"data": "b", "augmentation": {"flip": False}, "temperature": {"noise": "none"}},
            "efficientformer slim --data b --no-flip --noise none",
        ),
    ],
)
def test_repeat_command(job: dict[str, Any], command: str):
    assert repeat_command(job) == command


def test_a_long_command_is_broken_between_flags():
    lines = repeat_command({"data": "b"} | {f"setting_{n}": "x" * 30 for n in range(4)}).split(" \\\n")
    assert len(lines) > 1
    assert all(len(line) < 90 for line in lines)
    assert all(line.strip().startswith("--setting") for line in lines[1:])


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("/a/b/cat/1.png: broken", "cat/1.png: broken"),
        ("/a/b/train/cat/1.png: broken '/a/b/train/cat/1.png'", "train/cat/1.png: broken 'train/cat/1.png'"),
        ("/elsewhere/cat/1.png: broken", "cat/1.png: broken"),
        ("b/cat/1.png: broken", "b/cat/1.png: broken"),
    ],
)
def test_shown_files(line: str, shown: str):
    assert list(shown_files([line], Path("/a/b"))) == [shown]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (wording.ms(0.46845), "0.468"),
        (wording.ms(12.3456), "12.35"),
        (wording.ms(123.456), "123.5"),
        (wording.percent(0.98765), "98.8"),
        (wording.percent(0.98765, 5000), "98.77"),
        (wording.points(-0.00465), "−0.5"),
        (wording.points(-0.0), "0.0"),
        (wording.points(-0.0001), "0.0"),
        (wording.change(0.57), "−43 %"),
        (wording.change(1.5), "+50 %"),
        (wording.short(1145130), "1.15\xa0M"),
        (wording.short(16528960), "16.5\xa0M"),
        (wording.short(10.2e9), "10.2\xa0G"),
        (wording.short(999), "999"),
        (wording.whole(8880), "8,880"),
        (wording.power(4.6239e-07), "4.6 × 10⁻⁷"),
        (wording.power(0.0), "0"),
        (wording.day("2026-11-22T10:48:33+01:00"), "22 November 2026, 09:48 UTC"),
        (wording.target("openvino:cpu:threads=2:precision=fp16"), "openvino · cpu · 2 threads · fp16"),
        (wording.duration(45), "45 s"),
        (wording.duration(280), "5 min"),
        (wording.duration(9000), "2.5 h"),
    ],
)
def test_wording(given: str, text: str):
    assert given == text


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.93, 2.1, [1, 1.2, 1.4, 1.6, 1.8, 2]),
        (97, 123, [100, 105, 110, 115, 120]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, ticks: list[float]):
    assert Axis(low, high, 0, 600).ticks(100) == pytest.approx(ticks)


def test_an_axis_of_one_value_has_width():
    place = axis([2.0, 2.0], 0, 100)
    assert place.low < 2.0 < place.high
    assert place(2.0) == pytest.approx(50)


def test_every_sample_is_counted_once():
    counts, beyond = binned([0.0, 0.05, 0.95, 1.0, 7.0, -0.01], Axis(0, 1, 0, 100), 10)
    assert (counts[0], counts[9], beyond) == (3, 1, 2)
    assert sum(counts) + beyond == 6


@pytest.mark.parametrize("kind", get_args(ActionKind))
def test_every_action_has_a_shape_and_words(kind: ActionKind) -> None:
    assert kind in MARKERS
    assert wording.action(kind)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_has_a_sentence(name: str) -> None:
    assert wording.policy(name).endswith(".")
