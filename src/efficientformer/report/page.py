"""The page: a finished run's story, laid out in one file that loads nothing.

efficientformer report runs/demo
"""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from efficientformer.files import write_atomically
from efficientformer.report import blocks, charts, svg, wording
from efficientformer.report.receipt import VERDICTS
from efficientformer.report.search_chart import search_chart
from efficientformer.report.story import Story, read_story
from efficientformer.report.templates import environment, twice
from efficientformer.report.trail import Check


def write_report(run: Path) -> Path:
    """Write a finished run's page, `report.html`, into its folder.

    Args:
        run: the folder of a run that `slim` has finished.

    Returns:
        the page's path.

    Raises:
        InputError: if the folder holds no finished run, or a file of it is damaged or of another version.
    """
    page = run / "report.html"
    write_atomically(page, render(read_story(run)))
    return page


def render(story: Story) -> str:
    """The page of a story, as HTML."""
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            story=story,
            summary=story.summary,
            drawings=_drawings(story),
            sample=svg.sample,
            hue=charts.hue,
            verdicts=VERDICTS,
            kind_name=blocks.name,
            action_name=wording.action,
            policy=wording.policy(story.summary["job"].get("policy", "greedy")),
            is_check=lambda event: isinstance(event, Check),
        )
    )


def _drawings(story: Story) -> dict[str, Markup]:
    """The page's charts by name."""
    budget_ms, predicted_ms = story.summary["budget_ms"], story.summary["predicted_ms"]
    return {
        "bars": twice(lambda width: charts.latency_bars(story.contenders, budget_ms, width)),
        "search": twice(
            lambda width: search_chart(story.trail, story.slimmed, predicted_ms, budget_ms, width)
        ),
        "samples": twice(lambda width: charts.histograms(story.contenders, budget_ms, width)),
    }
