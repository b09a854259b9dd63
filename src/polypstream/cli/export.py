"""`polypstream export`: a trained Keras model in, a verified ONNX file with its contract out."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Turn a Keras model into one ONNX file: uint8 RGB in, probability out, contract inside.

    The file is compared with Keras on made-up pictures, and written only if they agree to 1e-5. Runs Keras on
    TensorFlow, on the CPU, whatever backend and precision the model was trained with.
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
    )
    if sys.stderr.isatty():
        print("starting TensorFlow; an export takes about half a minute", file=sys.stderr)
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
    contract, verification = report.contract, report.verification
    operators = ", ".join(f"{count} {name}" for name, count in report.operators.items())
    rows = {
        "model": f"{contract.name} {contract.version}",
        "input": f"uint8 {contract.colour_order}, {contract.width}x{contract.height}",
        "threshold": f"{contract.threshold:g}",
        "training data": contract.training_data,
        "licence": contract.licence,
        "parameters": f"{report.parameters:,}",
        "nodes": f"{sum(report.operators.values())}: {operators}",
        "size": f"{report.size_bytes / 1e6:.1f} MB",
        "largest difference to Keras": f"{verification.largest_difference:.2g} over {verification.pictures} pictures "
        f"(Keras' own rounding: {verification.keras_rounding:.2g})",
        "time": f"{report.seconds:.0f} s",
    }
    table = Table(title=escape(str(report.output)), show_header=False)
    for key, value in rows.items():
        table.add_row(key, escape(value))
    return table
