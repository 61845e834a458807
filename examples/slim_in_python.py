"""The main job from Python: digits, half the unslimmed network's latency, few widths, short trainings."""

import tempfile
from dataclasses import replace
from pathlib import Path

from efficientformer.latency.budget import Budget
from efficientformer.latency.target import Target
from efficientformer.pipeline.demo import demo_job, write_digits
from efficientformer.pipeline.slim import slim
from efficientformer.report import write_report


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = write_digits(Path(folder, "digits"))
        job = demo_job(data, Budget.parse("50%"), Target(), seed=0)
        job = replace(job, width_step=32, supernet_epochs=2, epochs=2, train_unslimmed=False)
        summary = slim(job, Path(folder, "run"))
        print(
            f"{summary['measured_ms']:.3f} ms of {summary['budget_ms']:.3f} ms, top-1 {summary['top1']:.1%}"
        )
        print(write_report(Path(folder, "run")).name)


if __name__ == "__main__":
    main()
