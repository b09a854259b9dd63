"""HTML of reports. Everything is inline; the content security policy allows only the video next to the page."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from polypstream.realtime.annotate.report.data import Findings, TimeInterval
from polypstream.realtime.annotate.report.layout import axis, clock, document, lanes, line, place, plural, static
from polypstream.realtime.annotate.summary import Deidentification, Summary
from polypstream.realtime.annotate.tracks import PolypTrack

_COLORS = 8
"""Number of track colors in the style sheet."""
_KINDS = {
    "blurred": "Blurred",
    "red_out": "Red-out (lens on the wall)",
    "washed": "Washed or overexposed",
    "dark": "Dark",
    "outside": "Outside the body",
    "damage": "Damaged recording",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the index page."""

    name: str
    """Path of the report relative to the index page, with slashes."""
    summary: Summary


def report_page(summary: Summary, findings: Findings, *, media: Sequence[str], is_beside: bool) -> str:
    """The report of one recording.

    Args:
        summary: The recording as a whole.
        findings: What was found in it.
        media: File names of playable videos, the best first.
        is_beside: Whether they exist next to the report; otherwise they are tried on the first click.
    """
    video = summary.video
    tracks = summary.tracks
    body = [
        f"<header><h1>{escape(video.name)}</h1><p>{plural(len(tracks), 'polyp')} in {clock(findings.duration_s)}. "
        "Research software, not a medical device: every finding needs review.</p></header>",
        _totals(summary, findings),
        _player(media, is_beside=is_beside),
        _timeline(tracks, findings, is_measured=summary.is_visibility_measured),
        _curves(tracks, findings),
        _cards(tracks, findings),
        _intervals(findings.intervals, is_measured=summary.is_visibility_measured),
        _details(summary),
        _privacy(summary.deidentification),
    ]
    return document(f"{video.name}: polyps", "\n".join(body), static("report.js"), duration_s=findings.duration_s)


def index_page(entries: Sequence[Entry]) -> str:
    """The list of reports in a folder."""
    rows = []
    for entry in entries:
        summary = entry.summary
        share = summary.frames_with_polyp / max(summary.video.frames, 1)
        damaged = "yes" if summary.damage else ""
        rows.append(
            f'<tr><th scope="row"><a href="{quote(entry.name)}">{escape(summary.video.name)}</a></th>'
            f"<td>{len(summary.tracks)}</td><td>{clock(summary.video.duration_s or 0)}</td>"
            f"<td>{share:.1%}</td><td>{len(summary.notices)}</td><td>{damaged}</td></tr>"
        )
    polyps = sum(len(entry.summary.tracks) for entry in entries)
    header = (
        f"<header><h1>{plural(len(entries), 'recording')}</h1><p>{plural(polyps, 'polyp')} together. "
        "Research software, not a medical device: every finding needs review.</p></header>"
    )
    heads = "".join(
        f'<th scope="col">{head}</th>'
        for head in ("Recording", "Polyps", "Length", "Frames with polyp", "Notices", "Damaged")
    )
    table = f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    return document("Polyp reports", f"{header}<section>{table}</section>", "")


def _totals(summary: Summary, findings: Findings) -> str:
    """The totals at the top."""
    frames = max(summary.video.frames, 1)
    poor_s = sum(each.duration_s for each in findings.intervals if each.kind not in {"damage", "outside"})
    figures = [
        (str(len(summary.tracks)), "polyps"),
        (clock(findings.duration_s), "length"),
        (f"{summary.frames_with_polyp / frames:.1%}", f"of {summary.video.frames} frames with a polyp"),
    ]
    if summary.is_visibility_measured:
        figures.append((f"{poor_s / max(findings.duration_s, 1e-9):.1%}", "of the time with a poor view"))
        figures.append((clock(findings.total_s("outside")), "outside the body"))
    if summary.damage:
        figures.append((str(len(summary.damage)), "damaged intervals"))
    items = "".join(f"<div><dd>{escape(value)}</dd><dt>{escape(name)}</dt></div>" for value, name in figures)
    return f'<dl class="totals">{items}</dl>'


def _player(media: Sequence[str], *, is_beside: bool) -> str:
    """The video; the script sets its sources, so that a missing file is requested only on a click."""
    if not media:
        return ""
    sources = escape(json.dumps([quote(name) for name in media]), quote=True)
    note = f"To play it here, keep {escape(media[0])} next to this page."
    return (
        f'<section class="player" data-sources="{sources}" data-beside="{"yes" if is_beside else "no"}">'
        '<video controls playsinline preload="metadata" hidden aria-label="The recording"></video>'
        f'<p class="note" id="player-note"{" hidden" if is_beside else ""}>{note}</p></section>'
    )


def _timeline(tracks: Sequence[PolypTrack], findings: Findings, *, is_measured: bool) -> str:
    """A strip for visibility, and below it one button per polyp."""
    duration_s = findings.duration_s
    strip = "".join(
        f'<i class="k-{each.kind}" style="{place(each.start_s, each.end_s, duration_s)}" '
        f'title="{escape(_KINDS.get(each.kind, each.kind))}, {clock(each.start_s)} to {clock(each.end_s)}"></i>'
        for each in findings.intervals
    )
    rows = []
    for lane in lanes(tracks, duration_s):
        bars = "".join(
            f'<button type="button" class="bar c{track.id % _COLORS}" data-time="{track.first_pts_s:.3f}" '
            f'data-track="{track.id}" style="{place(track.first_pts_s, track.last_pts_s, duration_s)}" '
            f'aria-label="{escape(_spoken(track))}"><span>{track.id}</span></button>'
            for track in lane
        )
        rows.append(f'<div class="lane">{bars}</div>')
    empty = "" if tracks else '<p class="note">No polyp was found.</p>'
    kinds = dict.fromkeys(each.kind for each in findings.intervals)
    legend = "".join(f'<li><i class="k-{kind}"></i>{escape(_KINDS.get(kind, kind))}</li>' for kind in kinds)
    if is_measured:
        legend = f'<li><i class="k-clear"></i>Clear view</li>{legend}'
    return (
        '<section aria-labelledby="timeline"><h2 id="timeline">Timeline</h2><div class="chart">'
        f'<div class="strip" role="img" aria-label="{escape(_strip_text(findings))}">{strip}</div>'
        f'{"".join(rows)}<div class="playhead" hidden></div></div>{axis(duration_s)}{empty}'
        + (f'<ul class="legend">{legend}</ul>' if legend else "")
        + "</section>"
    )


def _curves(tracks: Sequence[PolypTrack], findings: Findings) -> str:
    """Probability and area over time."""
    if not tracks:
        return ""
    largest = max((v for c in findings.curves.values() for part in c.area for _, v in part), default=1.0)
    top = next((step for step in (1, 2, 5, 10, 20, 50) if largest <= step), 100)
    charts = []
    for name, unit, most in (("Mean probability", "", 1.0), ("Area, % of the frame", "%", float(top))):
        lines = []
        for identity, curve in findings.curves.items():
            parts = curve.score if most == 1.0 and not unit else curve.area
            data = " ".join(line(part, findings.duration_s, most) for part in parts)
            lines.append(f'<path class="c{identity % _COLORS}" d="{data}"/>')
        charts.append(
            f'<h3>{name}</h3><div class="chart curve"><svg viewBox="0 0 1000 100" preserveAspectRatio="none" '
            f'role="img" aria-label="{name} of every polyp over time">'
            '<path class="grid" d="M0 0H1000M0 50H1000M0 100H1000"/>'
            f"{''.join(lines)}</svg><b>{most:g}{unit}</b><b>0</b>"
            '<div class="playhead" hidden></div></div>'
        )
    return (
        '<section aria-labelledby="curves"><h2 id="curves">Curves</h2>'
        f"{''.join(charts)}{axis(findings.duration_s)}</section>"
    )


def _cards(tracks: Sequence[PolypTrack], findings: Findings) -> str:
    """One card per polyp."""
    cards = []
    for track in tracks:
        image = findings.thumbnails.get(track.id)
        picture = (
            f'<img src="{image}" alt="Best frame of polyp {track.id}, with its contour">'
            if image
            else '<span class="blank">no image</span>'
        )
        facts = [
            ("seen", f"{clock(track.first_pts_s)} to {clock(track.last_pts_s)}"),
            ("frames", str(track.frames)),
            ("highest probability", f"{track.best_score:.2f}"),
            ("largest view", f"frame {track.largest_index}"),
            ("longest gap", f"{track.longest_gap_s:.2f} s"),
        ]
        rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
        best_s = findings.best_s.get(track.id, track.first_pts_s)
        cards.append(
            f'<li><button type="button" class="card" data-time="{best_s:.3f}" data-track="{track.id}" '
            f'aria-label="{escape(_spoken(track))}; play from its best frame">{picture}'
            f'<strong><i class="c{track.id % _COLORS}"></i>Polyp {track.id}</strong><dl>{rows}</dl></button></li>'
        )
    if not cards:
        return ""
    return (
        '<section aria-labelledby="polyps"><h2 id="polyps">Polyps</h2>'
        f'<ul class="cards">{"".join(cards)}</ul></section>'
    )


def _intervals(intervals: Sequence[TimeInterval], *, is_measured: bool) -> str:
    """The table of intervals with a poor view."""
    if not intervals:
        text = "The view was clear throughout." if is_measured else ""
        return f'<section><h2>View</h2><p class="note">{text}</p></section>' if text else ""
    rows = "".join(
        f'<tr><th scope="row"><i class="k-{each.kind}"></i>{escape(_KINDS.get(each.kind, each.kind))}'
        f"{': ' + escape(each.text) if each.text else ''}</th>"
        f'<td><button type="button" class="time" data-time="{each.start_s:.3f}">{clock(each.start_s)}</button></td>'
        f"<td>{each.duration_s:.1f} s</td></tr>"
        for each in intervals
    )
    head = '<tr><th scope="col">Kind</th><th scope="col">Start</th><th scope="col">Duration</th></tr>'
    table = f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    return (
        '<section aria-labelledby="view"><h2 id="view">View</h2>'
        f"<details{' open' if len(intervals) <= 12 else ''}><summary>{plural(len(intervals), 'interval')} "
        f"with a poor view or damage</summary>{table}</details></section>"
    )


def _details(summary: Summary) -> str:
    """Settings of the annotation."""
    video = summary.video
    rate = f"{float(video.average_rate):.3f} frames/s" if video.average_rate else "unknown rate"
    peak = f", minimum peak {summary.min_peak:.3g}" if summary.min_peak else ""
    facts = [
        ("Model", summary.model),
        ("Software", f"polypstream {summary.software}"),
        ("Backend", summary.backend),
        ("Threshold", f"{summary.threshold:.3g}{peak}"),
        (
            "Video",
            f"{video.width}x{video.height}, {video.codec}, {rate}" + ("" if video.is_constant_rate else ", variable"),
        ),
    ]
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    notices = "".join(f"<li>{escape(notice)}</li>" for notice in summary.notices)
    return (
        f'<section aria-labelledby="how"><h2 id="how">Settings</h2><dl class="facts">{rows}</dl>'
        + (f'<h3>Notices</h3><ul class="notices">{notices}</ul>' if notices else "")
        + "</section>"
    )


def _privacy(account: Deidentification | None) -> str:
    """The hidden parts, and the limits of de-identification."""
    if account is None:
        return ""
    done, limits = ("".join(f"<li>{escape(line)}</li>" for line in lines) for lines in (account.done, account.limits))
    return (
        '<section aria-labelledby="privacy"><h2 id="privacy">De-identification</h2>'
        f'<ul class="notices">{done}</ul><h3>Not guaranteed</h3><ul class="notices">{limits}</ul></section>'
    )


def _strip_text(findings: Findings) -> str:
    totals = [f"{_KINDS[kind]} {findings.total_s(kind):.1f} s" for kind in _KINDS if findings.total_s(kind)]
    return f"View over time: {', '.join(totals) or 'clear'}"


def _spoken(track: PolypTrack) -> str:
    return f"Polyp {track.id}, from {clock(track.first_pts_s)} to {clock(track.last_pts_s)}"
