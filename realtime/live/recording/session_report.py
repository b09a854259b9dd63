"""Report of a session: `report.html`, one file without requests, in the style of the reports of recordings."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from pathlib import Path
from urllib.parse import quote

from polypstream.files import write_atomically
from polypstream.realtime.annotate.report.layout import axis, clock, document, lanes, line, place, plural
from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.recording.journal import Journal, Sample
from polypstream.realtime.live.recording.review_export import ModelFacts
from polypstream.realtime.live.recording.session_record import SessionRecord
from polypstream.realtime.live.recording.sightings import Kind, Sighting, Verdict

NAME = "report.html"
_COLORS = 8
_SPAN_NAMES = {
    "lost": "No video, or no model",
    "other": "Uncertain for another reason",
    "blurred": "Blurred",
    "red_out": "Red-out (lens on the wall)",
    "washed": "Washed or overexposed",
    "dark": "Dark",
    "outside": "Outside the body",
}
_UNLISTED = {EventKind.POLYP_APPEARED, EventKind.POLYP_VANISHED, EventKind.SIGHTING_REVIEWED}
"""Events that the list leaves out, since the sightings say the same."""
_VERDICTS = {Verdict.OPEN: "not reviewed", Verdict.ACCEPTED: "accepted", Verdict.DELETED: "no polyp"}


@dataclass(frozen=True, kw_only=True)
class SessionFacts:
    """What a report says about the session as a whole."""

    source: str
    label: str = ""
    settings: Mapping[str, str]
    """Names and values: model, operating point and so on."""
    totals: Mapping[str, int]
    """Names and counts: frames, drops and so on."""
    model: ModelFacts = field(default_factory=ModelFacts)
    """Model that found the polyps."""
    has_times: bool = True
    """Whether the times when the light was not ready are known."""
    missing: tuple[str, ...] = ()
    """What the folder of the session lacks."""


@dataclass(frozen=True, kw_only=True)
class _Bar:
    sighting: Sighting
    first_pts_s: float
    last_pts_s: float


def write_session_report(folder: Path, facts: SessionFacts, journal: Journal, record: SessionRecord) -> Path:
    """Write the report; returns its path.

    Raises:
        OutputError: If it cannot be written.
    """
    path = folder / NAME
    write_atomically(path, session_page(facts, journal, record))
    return path


def session_page(facts: SessionFacts, journal: Journal, record: SessionRecord) -> str:
    """The report as HTML."""
    duration_s = max(journal.duration_s, 1e-3)
    sightings = record.sightings()
    bars = [
        _Bar(sighting=each, first_pts_s=each.first_s - journal.began_s, last_pts_s=each.last_s - journal.began_s)
        for each in sightings
    ]
    started = datetime.fromtimestamp(journal.began_at).strftime("%Y-%m-%d %H:%M:%S")
    title = facts.label or "Live session"
    body = [
        f"<header><h1>{escape(title)}</h1><p>{escape(facts.source)}, from {started} for {clock(duration_s)}. "
        "Research software, not a medical device: every finding needs review.</p></header>",
        *(f'<p class="note">{escape(each)}</p>' for each in facts.missing),
        _totals(facts, journal, sightings, duration_s),
        _timeline(bars, journal, duration_s, has_times=facts.has_times),
        _cards(bars, record),
        _delays(journal.samples, duration_s),
        _events(journal),
        _details(facts, journal),
    ]
    return document(f"{title}: session report", "\n".join(body), "", duration_s=duration_s)


def _totals(facts: SessionFacts, journal: Journal, sightings: Sequence[Sighting], duration_s: float) -> str:
    polyps = [each for each in sightings if each.kind is Kind.POLYP]
    not_ready_s = sum(each.end_s - each.start_s for each in journal.spans)
    figures = [
        (str(len(polyps)), "sightings"),
        (str(sum(each.kind is Kind.MISSED for each in sightings)), "reported as missed"),
        (str(sum(each.is_reported_false for each in sightings)), "reported as false"),
        (f"{sum(each.verdict is not Verdict.OPEN for each in sightings)} of {len(sightings)}", "reviewed"),
        (f"{min(not_ready_s / duration_s, 1):.1%}" if facts.has_times else "unknown", "of the time uncertain or lost"),
        *((str(count), name) for name, count in facts.totals.items()),
    ]
    items = "".join(f"<div><dd>{escape(value)}</dd><dt>{escape(name)}</dt></div>" for value, name in figures)
    return f'<dl class="totals">{items}</dl>'


def _timeline(bars: Sequence[_Bar], journal: Journal, duration_s: float, *, has_times: bool) -> str:
    """A strip for the light, below it marks for events, and one bar for every sighting."""
    strip = "".join(
        f'<i class="k-{each.kind}" style="{place(each.start_s, each.end_s, duration_s)}" '
        f'title="{escape(each.text)}, {clock(each.start_s)} to {clock(each.end_s)}"></i>'
        for each in journal.spans
    )
    rows = []
    for lane in lanes(bars, duration_s):
        links = "".join(
            f'<a class="bar c{bar.sighting.number % _COLORS}" href="#sighting-{bar.sighting.number}" '
            f'style="{place(bar.first_pts_s, bar.last_pts_s, duration_s)}" '
            f'aria-label="{escape(_title(bar.sighting))}, at {clock(bar.first_pts_s)}">'
            f"<span>{bar.sighting.number}</span></a>"
            for bar in lane
        )
        rows.append(f'<div class="lane">{links}</div>')
    totals = {
        kind: sum(each.end_s - each.start_s for each in journal.spans if each.kind == kind) for kind in _SPAN_NAMES
    }
    legend = "".join(
        f'<li><i class="k-{kind}"></i>{escape(_SPAN_NAMES[kind])}: {total_s:.1f} s</li>'
        for kind, total_s in totals.items()
        if total_s
    )
    spoken = ", ".join(f"{_SPAN_NAMES[kind]} {total_s:.1f} s" for kind, total_s in totals.items() if total_s)
    status = (
        f'<div class="strip" role="img" aria-label="Status over time: {escape(spoken or "ready")}">{strip}</div>'
        if has_times
        else ""
    )
    ready = f'<ul class="legend"><li><i class="k-clear"></i>Ready</li>{legend}</ul>' if has_times else ""
    return (
        '<section aria-labelledby="timeline"><h2 id="timeline">Timeline</h2><div class="chart">'
        f"{status}{''.join(rows)}</div>{axis(duration_s)}{ready}</section>"
    )


def _cards(bars: Sequence[_Bar], record: SessionRecord) -> str:
    cards = []
    for bar in bars:
        each, jpeg = bar.sighting, record.thumbnail(bar.sighting.number)
        image = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" if jpeg else None
        outlined = ", with its contour" if each.contour is not None else ""
        picture = (
            f'<img src="{image}" alt="Frame of sighting {each.number}{outlined}">'
            if image
            else '<span class="blank">no picture</span>'
        )
        facts = [("at", clock(bar.first_pts_s))]
        if each.kind is Kind.POLYP:
            facts += [
                ("marked for", f"{each.marked_s:.1f} s in {each.duration_s:.1f} s"),
                ("tracks", str(len(each.tracks))),
                ("highest mean probability", f"{each.score:.2f}"),
            ]
        is_corrected = each.is_corrected and each.verdict is Verdict.ACCEPTED
        facts.append(("review", "accepted, corrected" if is_corrected else _VERDICTS[each.verdict]))
        if each.note:
            facts.append(("note", each.note))
        rows = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
        if each.clip:
            rows += f'<div><dt>clip</dt><dd><a href="{quote(each.clip)}">{escape(each.clip)}</a></dd></div>'
        cards.append(
            f'<li id="sighting-{each.number}"><div class="card">{picture}'
            f'<strong><i class="c{each.number % _COLORS}"></i>{escape(_title(each))}</strong><dl>{rows}</dl></div></li>'
        )
    content = f'<ul class="cards">{"".join(cards)}</ul>' if cards else '<p class="note">No polyp was marked.</p>'
    return f'<section aria-labelledby="sightings"><h2 id="sightings">Sightings</h2>{content}</section>'


def _delays(samples: Sequence[Sample], duration_s: float) -> str:
    """Curves of both delays, measured once per second."""
    charts = []
    for name, values in (
        ("Video delay, 99th percentile", [(each.at_s, each.video_ms) for each in samples]),
        ("Marker delay, 99th percentile", [(each.at_s, each.marker_ms) for each in samples]),
        ("Frames per second from the source", [(each.at_s, each.fps) for each in samples]),
    ):
        known = [(at_s, value) for at_s, value in values if value is not None]
        if not known:
            continue
        top, unit = max(value for _, value in known) or 1.0, "fps" if "second" in name else "ms"
        step = max(1, len(known) // 600)
        thin = [max(known[start : start + step], key=lambda pair: pair[1]) for start in range(0, len(known), step)]
        charts.append(
            f'<h3>{name}</h3><div class="chart curve"><svg viewBox="0 0 1000 100" preserveAspectRatio="none" '
            f'role="img" aria-label="{name} over time, at most {top:.1f} {unit}">'
            '<path class="grid" d="M0 0H1000M0 50H1000M0 100H1000"/>'
            f'<path class="c2" d="{line(thin, duration_s, top)}"/></svg><b>{top:.1f} {unit}</b><b>0</b></div>'
        )
    if not charts:
        return ""
    return (
        '<section aria-labelledby="delays"><h2 id="delays">Delays</h2>'
        '<p class="note">From the capture of a frame to the viewers; what a browser adds is not part of it.</p>'
        f"{''.join(charts)}{axis(duration_s)}</section>"
    )


def _events(journal: Journal) -> str:
    rows = "".join(
        f"<tr><td>{clock(max(event.at - journal.began_s, 0))}</td>"
        f'<th scope="row">{escape(event.kind.value.replace("_", " ").capitalize())}</th>'
        f"<td>{escape(_said(event))}</td></tr>"
        for event in journal.events
        if event.kind not in _UNLISTED
    )
    left_out = f'<p class="note">{journal.left_out} more are in events.jsonl.</p>' if journal.left_out else ""
    head = '<tr><th scope="col">At</th><th scope="col">Event</th><th scope="col">Details</th></tr>'
    count = sum(event.kind not in _UNLISTED for event in journal.events)
    return (
        '<section aria-labelledby="events"><h2 id="events">Events</h2>'
        f"<details{' open' if count <= 20 else ''}><summary>{plural(count, 'event')}</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="events"><table><thead>{head}</thead>'
        f"<tbody>{rows}</tbody></table></div></details>{left_out}</section>"
    )


def _details(facts: SessionFacts, journal: Journal) -> str:
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.settings.items()
    )
    return f'<section aria-labelledby="how"><h2 id="how">Settings</h2><dl class="facts">{rows}</dl></section>'


def _said(event: Event) -> str:
    return ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in event.details.items() if value != "")


def _title(sighting: Sighting) -> str:
    if sighting.kind is Kind.MISSED:
        return f"Missed polyp {sighting.number}"
    return f"Sighting {sighting.number}" + (", reported false" if sighting.is_reported_false else "")
