"""Generated documentation: writes all tables of results, and the plot, from the committed JSON files.

Run with `python -m benchmarks.documents`. Tables are placed between `<!-- name -->` and `<!-- /name -->`.
"""

import json
import re
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.accuracy import markdown as accuracy_table
from benchmarks.gpu.table import gpu_tables
from benchmarks.operating_points import points_table
from benchmarks.report import RESULTS

ROOT = Path(__file__).parents[1]
PLOT = ROOT / "docs" / "speed.svg"
CONTESTANTS = {
    "plain_opencv_loop": "OpenCV loop, plain FP32 model",
    "opencv_loop": "OpenCV loop, this model",
    "supervision": "supervision, this model",
    "annotate": "polypstream annotate",
    "coco": "the same, --overlay none --format coco",
    "records_only": "the same, --overlay none",
    "bare": "this model alone",
}
"""Labels by the name in the report, in the order of the bars."""
OURS = ("annotate", "coco", "records_only")
DOCUMENTS = (ROOT / "docs" / "benchmarks.md", ROOT / "MODEL_CARD.md")
DELAYS = {
    "video_delay_ms": "decoded frame to viewer",
    "video_delay_with_decoding_ms": "last packet of a frame to viewer",
    "sent_to_sink_ms": "sent to viewer",
    "marker_delay_ms": "last packet of a frame to its markers",
}
"""Labels by the name in the report of `benchmarks.live`."""


def newest(benchmark: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Read the latest committed report of a benchmark; raises `FileNotFoundError` if there is none."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"{benchmark}-*.json"))]
    if not reports:
        raise FileNotFoundError(f"there is no report of {benchmark} in {folder}; run python -m benchmarks.{benchmark}")
    report: dict[str, Any] = max(reports, key=lambda report: report.get("measured", ""))
    return report


def conditions_of(report: Mapping[str, Any]) -> str:
    """Describe the machine and commit of a report."""
    machine = report["machine"]
    return f"{machine['processor']}, {machine['cores']} cores, commit {report['commit']}"


def speed_table(report: dict[str, Any]) -> str:
    """Format frames per second of each contestant, relative to the usual loop."""
    fps = report["fps_and_ratios"]
    base = fps.get("plain_opencv_loop", fps["opencv_loop"])
    lines = ["| | frames per second | of the OpenCV loop |", "|---|---|---|"]
    for name, label in CONTESTANTS.items():
        if name in fps:
            lines.append(f"| {label} | {fps[name]:.1f} | {fps[name] / base:.2f} |")
    lines += [
        "",
        f"Medians of {report['repeats']} rounds on {conditions_of(report)}. Within a round, the network alone being 1: "
        f"with COCO export {fps['coco / bare']:.2f}, records alone {fps['records_only / bare']:.2f}, with video "
        f"{fps['annotate / bare']:.2f}.",
    ]
    return "\n".join(lines)


def drift_table(report: dict[str, Any]) -> str:
    """Format the per-image Dice differences of each file from Keras."""
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
    """Format losses, delays and growth of a live session."""
    growth = report["end_against_beginning"]
    lines = [
        f"{report['frames_displayed']} of {report['frames_sent']} frames displayed in {report['minutes']:g} minutes; "
        f"{report['inferred_fps']:.0f} inferred per second. At the end the video's median delay was "
        f"{growth['video_delay_p50']:.2f} of that at the beginning, the markers' {growth['marker_delay_p50']:.2f}, "
        f"memory {growth['memory']:.3f}. On {conditions_of(report)}.",
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
    "live_taken": ("live_taken", live_table),
    "accuracy": ("accuracy", accuracy_table),
    "points": ("operating_points", points_table),
    "gpu": ("gpu", gpu_tables),
}
"""Benchmark and table function by the name between the markers."""
OPTIONAL = frozenset({"gpu"})
"""Benchmarks that may have no report: what stands between the markers then remains."""


def with_tables(text: str, folder: Path = RESULTS) -> str:
    """Return a document with all its tables updated from the reports in a folder."""
    for name, (benchmark, table) in TABLES.items():
        place = re.compile(rf"(<!-- {name} -->\n\n).*?(\n\n<!-- /{name} -->)", re.DOTALL)
        if benchmark in OPTIONAL and not list(folder.glob(f"{benchmark}-*.json")):
            continue
        if found := place.search(text):
            text = text[: found.end(1)] + table(newest(benchmark, folder)) + text[found.start(2) :]
    return text


def speed_plot(report: dict[str, Any]) -> str:
    """Plot the speed table as a bar chart, an SVG with text elements. Needs Matplotlib (`polypstream[dev]`)."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    fps = report["fps_and_ratios"]
    names = [name for name in reversed(CONTESTANTS) if name in fps]
    colors = ["#1f9d6b" if name in OURS else "#9aa5ad" for name in names]
    svg = StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "polypstream", "font.family": "sans-serif"}):
        figure = Figure(figsize=(7.8, 0.4 * len(names) + 0.6), layout="constrained")
        axes = figure.subplots()
        bars = axes.barh([CONTESTANTS[name] for name in names], [fps[name] for name in names], color=colors)
        axes.bar_label(bars, fmt="%.1f", padding=6, fontweight="bold")
        axes.set_xlabel(f"frames per second, real clip, {conditions_of(report)}", fontsize=9, color="#6b757c")
        axes.margins(x=0.1)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(length=0, labelbottom=False)
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return "".join(f"{line.rstrip()}\n" for line in svg.getvalue().splitlines())


def main() -> None:
    """Write the plot and the tables."""
    PLOT.write_text(speed_plot(newest("throughput")), encoding="utf-8")
    for document in DOCUMENTS:
        document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
