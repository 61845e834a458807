"""A finished run as one HTML page. Reads results; never measures or scores anything."""

from efficientformer.report.page import write_report

__all__ = ["write_report"]
