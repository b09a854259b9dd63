"""`polypstream export`: converts a Keras model to a verified ONNX file, or a model repository for Triton."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from polypstream.cli.options import JsonOption
from polypstream.errors import ConfigError

if TYPE_CHECKING:
    from polypstream.export.exporter import ExportReport


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("export")(export)


def export(
    context: typer.Context,
    model: Annotated[
        Path, typer.Argument(help="Keras model, a .keras file; for --triton also an .onnx file.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="ONNX file to write.", show_default="MODEL with the ending .onnx"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.", show_default="the network's")] = None,
    model_version: Annotated[
        str | None, typer.Option(help="Version of the weights.", show_default="digits of the file's SHA-256")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Probability from which a pixel counts as polyp, between 0 and 1.")
    ] = 0.5,
    min_peak: Annotated[
        float,
        typer.Option(help="Probability that a region must reach somewhere, for masks and recordings; 0 for none."),
    ] = 0.0,
    operating_points: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON list of operating points for live feeds, each with name, threshold, min_area_share, min_peak, "
            "appear_ms and vanish_ms; the first is the default.",
            show_default="one, with the threshold",
        ),
    ] = None,
    training_data: Annotated[str, typer.Option(help="What the model was trained on.")] = "not stated",
    license: Annotated[str, typer.Option(help="License of the weights.")] = "not stated",
    crop: Annotated[
        Literal["none", "content"],
        typer.Option(help="Part of each image that it was trained on: all, or its content area."),
    ] = "none",
    temperature: Annotated[
        float,
        typer.Option(help="Divisor of the logits, to calibrate probabilities; 0.5 is unaffected."),
    ] = 1.0,
    height: Annotated[
        int | None, typer.Option(help="Input height, a multiple of 8.", show_default="the network's")
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Input width, a multiple of 8.", show_default="the network's")
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(help="Precision of the arithmetic; fp16 and int8 need --calibration."),
    ] = "fp32",
    engine: Annotated[
        Literal["onnxruntime", "tensorrt"],
        typer.Option("--for", help="Runtime of an int8 file: ONNX Runtime on a CPU, or TensorRT (also OpenVINO)."),
    ] = "onnxruntime",
    calibration: Annotated[
        list[Path] | None,
        typer.Option(help="Data set, or folder of images, used to calibrate fp16 and int8; repeatable."),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(
            help="CSV whose column 'grouped' names the training images among those of --calibration.",
            show_default="all of them",
        ),
    ] = None,
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Model repository for Triton Inference Server in which the model is also written; other models in it "
            "are kept.",
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Keep the unoptimized graph, as a baseline.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Export a Keras model to ONNX: uint8 RGB in, probability of polyp out.

    The float32 graph is compared with Keras on synthetic images, and a file is written only if they agree to 1e-5; the
    effect of fp16 and int8 is measured on the images of --calibration. Keras runs on TensorFlow and the CPU,
    independent of the backend and precision of training.
    """
    if model.suffix == ".onnx":
        _export_onnx(context, model, triton, as_json=as_json)
        return
    from polypstream.export.config import ExportConfig, operating_points_from_json
    from polypstream.export.toolchain import load_toolchain, quiet_native_logs

    config = ExportConfig(
        model=model,
        output=output or model.with_suffix(".onnx"),
        name=name,
        version=model_version,
        threshold=threshold,
        min_peak=min_peak,
        operating_points=operating_points_from_json(operating_points) if operating_points else (),
        training_data=training_data,
        license=license,
        crop=crop,
        temperature=temperature,
        height=height,
        width=width,
        precision=precision,
        engine=engine,
        rewriting="plain" if plain else "optimized",
        calibration=tuple(calibration or ()),
        splits=splits,
    )
    if sys.stderr.isatty():
        wait = "some minutes" if precision == "int8" else "about half a minute"
        print(f"starting TensorFlow; an export takes {wait}", file=sys.stderr)
    load_toolchain()
    from polypstream.export.exporter import export_model

    with quiet_native_logs():
        report = export_model(config)
    if triton is not None:
        from polypstream.export.triton import write_repository

        _say_written(write_repository(report.output, triton))
    if as_json:
        print(json.dumps(_plain(report), indent=2))
    else:
        Console().print(_table(report))


def _export_onnx(context: typer.Context, model: Path, triton: Path | None, *, as_json: bool) -> None:
    from polypstream.export.triton import write_repository

    if triton is None:
        raise ConfigError(f"{model} is an ONNX file; give a .keras file, or --triton FOLDER to write a repository")
    others = sorted(
        name
        for name in context.params
        if name not in {"model", "triton", "as_json"}
        and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"  # Typer has Click's or its own
    )
    if others:
        raise ConfigError(f"{model} is written as it is; leave out {', '.join(others)}, which apply to .keras files")
    folder = write_repository(model, triton)
    if as_json:
        print(json.dumps({"triton": str(folder)}))
    else:
        _say_written(folder)


def _say_written(folder: Path) -> None:
    Console(stderr=True).print(f"written for Triton: {escape(str(folder))}", highlight=False, soft_wrap=True)


def _plain(report: "ExportReport") -> dict[str, object]:
    return {**asdict(report), "output": str(report.output), "nodes": sum(report.operators.values())}


def _table(report: "ExportReport") -> Table:
    contract, verification, loss = report.contract, report.verification, report.loss
    operators = ", ".join(f"{count} {name}" for name, count in report.operators.items())
    rows = {
        "model": f"{contract.name} {contract.version}",
        "input": f"uint8 {contract.color_order}, {contract.width}x{contract.height}",
        "threshold": f"{contract.threshold:g}",
        "minimum peak of a region": f"{contract.min_peak:g}",
        "training data": contract.training_data,
        "license": contract.license,
        "precision": contract.precision,
        "parameters": f"{report.parameters:,}",
        "nodes": f"{sum(report.operators.values())}: {operators}",
        "size": f"{report.size_bytes / 1e6:.1f} MB",
        "multiply-accumulates": f"{report.gmac:.2f} GMAC, from {report.gmac_before:.2f}",
        "frame in ONNX Runtime here": f"{report.frame_ms:.1f} ms, from {report.frame_ms_before:.1f}",
        "largest difference to Keras": f"{verification.largest_difference:.2g} over {verification.images} images "
        f"(Keras' own rounding: {verification.keras_rounding:.2g})",
    }
    if loss is not None:
        rows["difference to fp32"] = (
            f"{loss.mean_difference:.2g} on average, {loss.largest_difference:.2g} at most, over {loss.images} images"
        )
        what = "tensors" if contract.precision == "fp16" else "nodes"
        rows["kept in fp32"] = f"{len(loss.kept_fp32)} {what}; --json names them" if loss.kept_fp32 else "nothing"
    rows["time"] = f"{report.seconds:.0f} s"
    table = Table(title=escape(str(report.output)), show_header=False)
    for key, value in rows.items():
        table.add_row(key, escape(value))
    return table
