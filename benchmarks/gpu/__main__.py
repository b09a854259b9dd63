"""GPU benchmark: limits of the card, each step, CUDA graph, and 1 to 16 streams: whole ones, and a shared network.

Run with `python -m benchmarks.gpu` on a machine with an NVIDIA GPU and the extras `tensorrt` or `rtx`, and `export`;
`--data FOLDER` adds the change of Dice by precision (layout: `CONTRIBUTING.md`). Each part is stored at once: run the
command again to continue after an interruption, or to measure what there was no time for. `--dry-run` tries the script
on a CPU, with tiny amounts and stand-ins for everything that a GPU does, and writes no results.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.gpu.cuda import CudaPlatform
from benchmarks.gpu.lanes import CpuPlatform, Platform
from benchmarks.gpu.parts import FULL, TINY, Bench, parts
from benchmarks.gpu.progress import Progress
from benchmarks.gpu.table import gpu_tables
from benchmarks.report import RESULTS, commit, write_report, write_table
from polypstream.errors import PolypstreamError

WORK = Path(__file__).parents[2] / "build" / "benchmark-gpu"


def main() -> None:
    """Measure what is not measured yet, print the tables, and write JSON and Markdown."""
    options = _options()
    work: Path = options.work / ("dry-run" if options.dry_run else "gpu")
    results: Path = work if options.dry_run else options.results
    platform = _platform(dry_run=options.dry_run, work=work)
    networks = dict(_named(text) for text in options.network)
    conditions = {"dry_run": options.dry_run, **platform.describe(), "commit": commit()}
    depends_on = {**conditions, "networks": {name: str(path) for name, path in networks.items()}}
    progress = Progress(work / "partial.json", depends_on, seconds=options.minutes * 60)
    bench = Bench(
        platform=platform,
        amounts=TINY if options.dry_run else FULL,
        work=work,
        networks=networks,
        data=options.data,
        int8=options.quantized,
    )
    for name, measure in parts(bench):
        progress.run(name, measure)
    report: Mapping[str, object] = {
        "dry_run": options.dry_run,
        "conditions": conditions,
        "left": progress.left,
        "parts": progress.results,
    }
    path = write_report("gpu", dict(report), folder=results, device=str(conditions["device"]))
    table = gpu_tables(json.loads(path.read_text(encoding="utf-8")))
    write_table(path, table)
    print(f"\n{table}\n\nwritten to {path}")
    if progress.left:
        print(f"no time for {', '.join(progress.left)}; run the command again to add them")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="try the script on a CPU; measures nothing of a GPU")
    parser.add_argument("--data", type=Path, help="folder of the labeled images, for the change of Dice")
    parser.add_argument("--quantized", type=Path, help="INT8 file exported with --for tensorrt, for the change of Dice")
    parser.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="NAME=MODEL.onnx",
        help="network to measure; default: the shipped one, and the exact ResUNet++, which is exported first",
    )
    parser.add_argument("--minutes", type=float, default=7.0, help="no part begins later than this")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for what is kept between runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON; not for a dry run")
    return parser.parse_args()


def _platform(*, dry_run: bool, work: Path) -> Platform:
    if dry_run:
        return CpuPlatform()
    try:
        return CudaPlatform(work / "engines")
    except PolypstreamError as error:
        raise SystemExit(f"no GPU to measure: {error}; --dry-run tries the script without one") from None


def _named(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not (name and separator and path) or "/" in name or not Path(path).is_file():
        raise SystemExit(f"--network {text} is not a name without /, an equals sign, and an ONNX file")
    return name, Path(path).resolve()


if __name__ == "__main__":
    main()
