"""`python -m efficientformer.cli`."""

from efficientformer.cli import run

run()
