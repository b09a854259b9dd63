"""Every table of figures in the README and the model card, and the plot, from the committed JSON.

Run with `python -m benchmarks.documents`. A table stands between `<!-- name -->` and `<!-- /name -->`.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.accuracy import markdown as accuracy_table
from benchmarks.operating_points import points_table
from benchmarks.report import RESULTS

ROOT = Path(__file__).parents[1]
PLOT = ROOT / "docs" / "speed.svg"
CONTESTANTS = {
    "plain_opencv_loop": "OpenCV loop, plain FP32 model",
    "opencv_loop": "OpenCV loop, our model",
    "supervision": "supervision, our model",
    "annotate": "polypstream annotate",
    "records_only": "the same, --records-only",
    "bare": "our model alone",
}
"""By the name in the report, in the order of the bars."""
OURS = ("annotate", "records_only")
DOCUMENTS = (ROOT / "README.md", ROOT / "MODEL_CARD.md")
DELAYS = {
    "video_delay_ms": "decoded picture to viewer",
    "video_delay_with_decoding_ms": "last packet of a picture to viewer",
    "sent_to_sink_ms": "sent to viewer",
    "marker_delay_ms": "last packet of a picture to its markers",
}
"""By the name in the report of `benchmarks.live`."""
BAR, GAP, LEFT, RIGHT, WIDTH = 26, 10, 250, 70, 780


def newest(benchmark: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Of a benchmark's committed reports the one measured last; `FileNotFoundError` where there is none."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"{benchmark}-*.json"))]
    if not reports:
        raise FileNotFoundError(f"there is no report of {benchmark} in {folder}; run python -m benchmarks.{benchmark}")
    report: dict[str, Any] = max(reports, key=lambda report: report.get("measured", ""))
    return report


def told_of(report: Mapping[str, Any]) -> str:
    """What a report was measured on."""
    machine = report["machine"]
    return f"{machine['processor']}, {machine['cores']} cores, commit {report['commit']}"


def speed_table(report: dict[str, Any]) -> str:
    """Frames per second of each contestant, and how it compares with the usual loop."""
    fps = report["fps_and_ratios"]
    base = fps.get("plain_opencv_loop", fps["opencv_loop"])
    lines = ["| | frames per second | of the OpenCV loop |", "|---|---|---|"]
    for name, label in CONTESTANTS.items():
        if name in fps:
            lines.append(f"| {label} | {fps[name]:.1f} | {fps[name] / base:.2f} |")
    return "\n".join(lines)


def drift_table(report: dict[str, Any]) -> str:
    """How far each file's Dice is from Keras', per image."""
    lines = [
        "| file, backend | images | mean [95%] | without the largest | p95 | p99 | largest | over 0.01 | pixels flip |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in report["runs"]:
        figures = " | ".join(f"{run[key]:.4f}" for key in ("p95", "p99", "largest"))
        shares = f"{run['share_over_0.01']:.1%} | {run['pixels_flipped']:.3%}"
        named = f"`{run['model']}` in {run['backend']}, {run['set']}"
        mean = f"{run['mean']:+.4f} [{run['low']:+.4f}, {run['high']:+.4f}] | {run['mean_without_largest']:+.4f}"
        lines.append(f"| {named} | {run['images']} | {mean} | {figures} | {shares} |")
    return "\n".join(lines)


def live_table(report: Mapping[str, Any]) -> str:
    """What a live session lost, how late it was, and what grew."""
    growth = report["end_against_beginning"]
    lines = [
        f"{report['frames_displayed']} of {report['frames_sent']} frames displayed in {report['minutes']:g} minutes; "
        f"{report['judged_fps']:.0f} judged a second. At the end the video's median delay was "
        f"{growth['video_delay_p50']:.2f} of that at the beginning, the markers' {growth['marker_delay_p50']:.2f}, "
        f"memory {growth['memory']:.3f}. On {told_of(report)}.",
        "",
        "| ms | median | 95% within | 99% within | largest |",
        "|---|---|---|---|---|",
    ]
    for name, label in DELAYS.items():
        figures = " | ".join(f"{report[name][key]:.1f}" for key in ("p50", "p95", "p99", "largest"))
        lines.append(f"| {label} | {figures} |")
    return "\n".join(lines)


TABLES: Mapping[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "speed": ("throughput", speed_table),
    "drift": ("dice_drift", drift_table),
    "live": ("live", live_table),
    "accuracy": ("accuracy", accuracy_table),
    "points": ("operating_points", points_table),
}
"""By the name of its place: the benchmark, and what makes a table of its report."""


def with_tables(text: str) -> str:
    """A document with all its tables made anew."""
    for name, (benchmark, table) in TABLES.items():
        place = re.compile(rf"(<!-- {name} -->\n\n).*?(\n\n<!-- /{name} -->)", re.DOTALL)
        if found := place.search(text):
            text = text[: found.end(1)] + table(newest(benchmark)) + text[found.start(2) :]
    return text


def speed_plot(report: dict[str, Any]) -> str:
    """The same as bars, an SVG."""
    fps = report["fps_and_ratios"]
    shown = [(label, fps[name], name in OURS) for name, label in CONTESTANTS.items() if name in fps]
    largest = max(value for _, value, _ in shown)
    height = GAP + len(shown) * (BAR + GAP) + 28
    rows = []
    for index, (label, value, is_ours) in enumerate(shown):
        top, long = GAP + index * (BAR + GAP), (WIDTH - LEFT - RIGHT) * value / largest
        colour = "#1f9d6b" if is_ours else "#9aa5ad"
        middle = top + BAR * 0.68
        rows.append(f'<text x="{LEFT - 10}" y="{middle:.0f}" text-anchor="end">{escape(label)}</text>')
        rows.append(f'<rect x="{LEFT}" y="{top}" width="{long:.0f}" height="{BAR}" rx="3" fill="{colour}"/>')
        rows.append(f'<text x="{LEFT + long + 8:.0f}" y="{middle:.0f}" font-weight="600">{value:.1f}</text>')
    told = f"frames per second, real clip, {told_of(report)}"
    rows.append(f'<text x="14" y="{height - 8}" font-size="12" fill="#6b757c">{escape(told)}</text>')
    style = 'font-family="sans-serif" font-size="14" fill="#2b3338"'
    body = "\n".join(rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {style}>\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def main() -> None:
    """Write the plot and the tables."""
    PLOT.write_text(speed_plot(newest("throughput")), encoding="utf-8")
    for document in DOCUMENTS:
        document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
