"""The page of a profile: where a network's time goes, in one file that loads nothing.

efficientformer profile efficientformer_l1 --html profile.html
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import efficientformer
from efficientformer.files import write_atomically
from efficientformer.profile import Profile
from efficientformer.profile.result import NOWHERE
from efficientformer.report import profile_chart
from efficientformer.report.receipt import VERDICTS
from efficientformer.report.templates import environment, twice


def write_profile(profile: Profile, path: Path) -> Path:
    """Write a profile's page.

    Args:
        profile: what was found.
        path: the file; its folder is made if it is missing.

    Returns:
        the page's path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render_profile(profile))
    return path


def render_profile(profile: Profile) -> str:
    """The page of a profile, as HTML."""
    return (
        environment()
        .get_template("profile.html.j2")
        .render(
            profile=profile,
            whole=profile.whole,
            nowhere=NOWHERE,
            sorts=profile_chart.used_sorts(profile),
            slug=profile_chart.slug,
            strip=twice(partial(profile_chart.strip, profile)),
            bars=twice(partial(profile_chart.block_bars, profile)),
            operator_text=profile_chart.operator_text,
            verdicts=VERDICTS,
            version=efficientformer.__version__,
        )
    )
