"""The HTML report of an annotated recording, and the index page of several."""

from polypstream.realtime.annotate.report.writer import write_index, write_report

__all__ = ["write_index", "write_report"]
