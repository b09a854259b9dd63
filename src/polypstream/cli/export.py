"""`polypstream export`: a trained Keras model in, a verified ONNX file with its contract out."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from polypstream.export.exporter import ExportReport


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("export")(export)


def export(
    model: Annotated[Path, typer.Argument(help="Keras model, a .keras file.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="ONNX file to write.  [default: MODEL with the ending .onnx]")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.  [default: the network's]")] = None,
    model_version: Annotated[
        str | None, typer.Option(help="Version of the weights.  [default: digits of the file's SHA-256]")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Probability that counts as polyp, between 0 and 1.")] = 0.5,
    training_data: Annotated[str, typer.Option(help="What the model was trained on.")] = "not stated",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "not stated",
    height: Annotated[int | None, typer.Option(help="Input height, a multiple of 8.  [default: the network's]")] = None,
    width: Annotated[int | None, typer.Option(help="Input width, a multiple of 8.  [default: the network's]")] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"], typer.Option(help="Of the arithmetic; fp16 and int8 need --calibration.")
    ] = "fp32",
    engine: Annotated[
        Literal["onnxruntime", "tensorrt"],
        typer.Option("--for", help="What an int8 file is for: ONNX Runtime on a CPU; or TensorRT, and OpenVINO."),
    ] = "onnxruntime",
    calibration: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of images, or data set, that fp16 and int8 are fitted to; may be given repeatedly."),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(help="CSV whose column 'grouped' tells the training images of --calibration.  [default: all are]"),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Keep the graph as Keras has it, to measure the optimised one against.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Turn a Keras model into one ONNX file: uint8 RGB in, probability out, contract inside.

    The float32 graph is compared with Keras on made-up pictures, and a file is written only if they agree to 1e-5;
    what fp16 and int8 change beyond that is measured on the pictures given. Runs Keras on TensorFlow, on the CPU,
    whatever backend and precision the model was trained with.
    """
    from polypstream.export.config import ExportConfig
    from polypstream.export.toolchain import load_toolchain, quiet_native_logs

    config = ExportConfig(
        model=model,
        output=output or model.with_suffix(".onnx"),
        name=name,
        version=model_version,
        threshold=threshold,
        training_data=training_data,
        licence=licence,
        height=height,
        width=width,
        precision=precision,
        engine=engine,
        rewriting="plain" if plain else "optimised",
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
    if as_json:
        print(json.dumps(_plain(report), indent=2))
    else:
        Console().print(_table(report))


def _plain(report: "ExportReport") -> dict[str, object]:
    return {**asdict(report), "output": str(report.output), "nodes": sum(report.operators.values())}


def _table(report: "ExportReport") -> Table:
    contract, verification, loss = report.contract, report.verification, report.loss
    operators = ", ".join(f"{count} {name}" for name, count in report.operators.items())
    rows = {
        "model": f"{contract.name} {contract.version}",
        "input": f"uint8 {contract.colour_order}, {contract.width}x{contract.height}",
        "threshold": f"{contract.threshold:g}",
        "training data": contract.training_data,
        "licence": contract.licence,
        "precision": contract.precision,
        "parameters": f"{report.parameters:,}",
        "nodes": f"{sum(report.operators.values())}: {operators}",
        "size": f"{report.size_bytes / 1e6:.1f} MB",
        "multiply-accumulates": f"{report.gmac:.2f} GMAC, from {report.gmac_before:.2f}",
        "frame in ONNX Runtime here": f"{report.frame_ms:.1f} ms, from {report.frame_ms_before:.1f}",
        "largest difference to Keras": f"{verification.largest_difference:.2g} over {verification.pictures} pictures "
        f"(Keras' own rounding: {verification.keras_rounding:.2g})",
    }
    if loss is not None:
        rows["difference to fp32"] = (
            f"{loss.mean_difference:.2g} in the mean, {loss.largest_difference:.2g} at most, "
            f"over {loss.pictures} pictures"
        )
        what = "tensors" if contract.precision == "fp16" else "nodes"
        rows["kept in fp32"] = f"{len(loss.kept_fp32)} {what}; --json names them" if loss.kept_fp32 else "nothing"
    rows["time"] = f"{report.seconds:.0f} s"
    table = Table(title=escape(str(report.output)), show_header=False)
    for key, value in rows.items():
        table.add_row(key, escape(value))
    return table
