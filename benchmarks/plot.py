"""The README's table and plot of speed and drift, made from the committed JSON: `python -m benchmarks.plot`."""

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.report import RESULTS

PLOT = Path(__file__).parents[1] / "docs" / "speed.svg"
CONTESTANTS = {
    "plain_opencv_loop": "OpenCV loop, plain FP32 model",
    "opencv_loop": "OpenCV loop, our model",
    "supervision": "supervision, our model",
    "annotate": "polypstream annotate",
    "bare": "our model alone",
}
"""By the name in the report, in the order of the bars."""
OURS = "annotate"
BAR, GAP, LEFT, RIGHT, WIDTH = 26, 10, 250, 70, 780


def newest(benchmark: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The committed report of a benchmark; `FileNotFoundError` where there is none."""
    paths = sorted(folder.glob(f"{benchmark}-*.json"))
    if not paths:
        raise FileNotFoundError(f"there is no report of {benchmark} in {folder}; run python -m benchmarks.{benchmark}")
    report: dict[str, Any] = json.loads(paths[-1].read_text(encoding="utf-8"))
    return report


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
        "| file, backend | images | mean | p95 | p99 | largest | changed by over 0.01 | pixels that flip |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in report["runs"]:
        figures = " | ".join(f"{run[key]:.4f}" for key in ("p95", "p99", "largest"))
        shares = f"{run['share_over_0.01']:.1%} | {run['pixels_flipped']:.3%}"
        named = f"`{run['model']}` in {run['backend']}, {run['set']}"
        lines.append(f"| {named} | {run['images']} | {run['mean']:+.4f} | {figures} | {shares} |")
    return "\n".join(lines)


def speed_plot(report: dict[str, Any]) -> str:
    """The same as bars, an SVG."""
    fps = report["fps_and_ratios"]
    shown = [(label, fps[name], name == OURS) for name, label in CONTESTANTS.items() if name in fps]
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
    machine = report["machine"]
    told = f"frames per second, real clip, {machine['processor']}, {machine['cores']} cores, commit {report['commit']}"
    rows.append(f'<text x="14" y="{height - 8}" font-size="12" fill="#6b757c">{escape(told)}</text>')
    style = 'font-family="sans-serif" font-size="14" fill="#2b3338"'
    body = "\n".join(rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {style}>\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def main() -> None:
    """Write the plot, and print the tables for the README."""
    report = newest("throughput")
    PLOT.write_text(speed_plot(report), encoding="utf-8")
    print(speed_table(report))
    print()
    print(drift_table(newest("dice_drift")))


if __name__ == "__main__":
    main()
