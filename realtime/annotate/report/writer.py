"""Writes report files: `<stem>_report.html` of one recording, and `index.html` of a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

from polypstream.arrays import Rgb
from polypstream.errors import DatasetError
from polypstream.files import write_atomically
from polypstream.realtime.annotate.report.data import findings_of
from polypstream.realtime.annotate.report.page import Entry, index_page, report_page
from polypstream.realtime.annotate.summary import SUFFIX, read_summary

REPORT_SUFFIX = "_report.html"
INDEX_NAME = "index.html"


def write_report(
    path: Path,
    *,
    video: Path,
    records: Path,
    summary: Path,
    media: Sequence[Path],
    hide: Callable[[Rgb, float], Rgb] | None = None,
) -> None:
    """Write the report of one recording atomically: one file that loads only the video next to it.

    Args:
        path: Path of the report.
        video: The recording, from which thumbnails are taken.
        records: Its records.
        summary: Its summary.
        media: Videos that the page may play, the best first; only those in the report's folder are offered.
        hide: De-identifies a coded frame, uint8 RGB (H, W, 3), given its time in seconds.

    Raises:
        SourceError: If the video cannot be read.
        DatasetError: If the records or the summary cannot be read.
        OutputError: If the report cannot be written.
    """
    facts = read_summary(summary)
    findings = findings_of(facts, records, video, hide=hide)
    folder = path.parent.resolve()
    beside = [each.name for each in media if each.exists() and each.parent.resolve() == folder]
    names = beside or [each.name for each in media[-1:]]
    write_atomically(path, report_page(facts, findings, media=names, is_beside=bool(beside)))


def write_index(folder: Path) -> Path:
    """Write the page that lists every report in a folder and its subfolders; returns its path.

    Raises:
        OutputError: If it cannot be written.
    """
    entries = []
    for report in sorted(folder.rglob(f"*{REPORT_SUFFIX}")):
        try:
            summary = read_summary(report.with_name(report.name.removesuffix(REPORT_SUFFIX) + SUFFIX))
        except DatasetError:  # written by another version, or without its summary
            continue
        entries.append(Entry(name=report.relative_to(folder).as_posix(), summary=summary))
    path = folder / INDEX_NAME
    write_atomically(path, index_page(entries))
    return path
