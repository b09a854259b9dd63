"""Export pipeline: converts a Keras file to an ONNX file, which appears under its name only after verification."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import onnx

from polypstream import __version__
from polypstream.contract import ModelContract
from polypstream.errors import ModelError, OutputError
from polypstream.export.config import ExportConfig
from polypstream.export.graph import Images, frame_ms, gmac
from polypstream.export.int8.calibration import calibration_images
from polypstream.export.keras import divide_logits, float32_network, network_from_file, onnx_from_keras
from polypstream.export.precision import PrecisionLoss, reduce_precision
from polypstream.export.rewrites.cleanup import operator_counts
from polypstream.export.rewrites.optimize import optimize
from polypstream.export.verify import Verification, verification_images, verify_against_keras


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """Result of an export."""

    output: Path
    contract: ModelContract
    operators: dict[str, int]
    """Nodes of each operator, most frequent first."""
    parameters: int
    """Parameters of the Keras network; the file contains fewer because normalizations are folded."""
    size_bytes: int
    verification: Verification
    """Verification of the float32 graph that the file contains, or from which it was quantized."""
    loss: PrecisionLoss | None
    """Effect of the reduced precision; None for fp32."""
    gmac_before: float
    """Multiply-accumulates per frame of the unoptimized graph, in billions."""
    gmac: float
    """Multiply-accumulates per frame of the exported file, in billions."""
    frame_ms_before: float
    """Milliseconds per frame of the unoptimized graph in ONNX Runtime on this machine."""
    frame_ms: float
    """Milliseconds per frame of the exported file."""
    seconds: float


def export_model(config: ExportConfig) -> ExportReport:
    """Export one model and verify the file before it appears under its name.

    Args:
        config: Settings of the export.

    Returns:
        The contract, cost, verification and speed of the exported file.

    Raises:
        ModelError: The Keras file is not a polyp segmentation network, or the float32 graph differs from it by more
            than 1e-5.
        ConfigError: The input size does not fit the network.
        DatasetError: The calibration images cannot be read.
        OutputError: The output cannot be written.
    """
    began = time.monotonic()
    with _appearing_when_done(config.output) as unfinished:
        network = float32_network(network_from_file(config.model), height=config.height, width=config.width)
        divide_logits(network, config.temperature)
        contract = _contract(config, network)
        images = _images(config, contract)
        plain = onnx_from_keras(network)
        model = plain if config.rewriting == "plain" else optimize(plain)
        _write(model, contract, unfinished)
        verification, loss = _verified(unfinished, network, contract), None
        if images is not None:
            model, loss = reduce_precision(
                model,
                images,
                precision=config.precision,
                engine=config.engine,
                threshold=contract.threshold,
            )
            _write(model, contract, unfinished)
        times = frame_ms({"before": plain, "after": model})
        size_bytes = unfinished.stat().st_size
    return ExportReport(
        output=config.output,
        contract=contract,
        operators=operator_counts(model),
        parameters=network.count_params(),
        size_bytes=size_bytes,
        verification=verification,
        loss=loss,
        gmac_before=gmac(plain),
        gmac=gmac(model),
        frame_ms_before=times["before"],
        frame_ms=times["after"],
        seconds=time.monotonic() - began,
    )


def describe(model: onnx.ModelProto, contract: ModelContract) -> None:
    """Write the contract and the producer into the model, replacing what the conversion tools wrote."""
    peak = f", in regions that reach {contract.min_peak:g}" if contract.min_peak else ""
    model.producer_name, model.producer_version = "polypstream", __version__
    model.doc_string = (
        f"{contract.name} {contract.version}: polyp segmentation. "
        f"Input: uint8 {contract.color_order} (1, {contract.height}, {contract.width}, 3). "
        f"Output: float32 probability (1, {contract.height}, {contract.width}, 1), "
        f"polyp where it reaches {contract.threshold:g}{peak}. "
        f"Training data: {contract.training_data}. License: {contract.license}. "
        "Research software, not a medical device."
    )
    model.graph.name = contract.name
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, contract.to_metadata())


def _contract(config: ExportConfig, network: keras.Model) -> ModelContract:
    height, width = network.input_shape[1:3]
    return ModelContract(
        name=config.name or network.name,
        version=config.version or hashlib.sha256(config.model.read_bytes()).hexdigest()[:12],
        height=height,
        width=width,
        threshold=config.threshold,
        min_peak=config.min_peak,
        operating_points=config.operating_points,
        training_data=config.training_data,
        license=config.license,
        crop=config.crop,
        precision=config.precision,
    )


def _images(config: ExportConfig, contract: ModelContract) -> Images | None:
    """Calibration images; None for fp32."""
    if config.precision == "fp32":
        return None
    return calibration_images(
        config.calibration, splits=config.splits, height=contract.height, width=contract.width, crop=contract.crop
    )


def _write(model: onnx.ModelProto, contract: ModelContract, path: Path) -> None:
    describe(model, contract)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _verified(path: Path, network: keras.Model, contract: ModelContract) -> Verification:
    verification = verify_against_keras(path, network, verification_images(contract.height, contract.width))
    if not verification.passed:
        raise ModelError(
            f"the exported file differs from Keras by {verification.largest_difference:.2g}, more than the "
            f"{verification.allowed_difference:.2g} allowed, so nothing was written; check for huge weights, or "
            "report a bug"
        )
    return verification


@contextmanager
def _appearing_when_done(output: Path) -> Iterator[Path]:
    """Yield a temporary path next to `output`; rename it to `output` on success, delete it on an error."""
    unfinished = output.with_name(f".{output.stem}-{os.getpid()}.onnx")
    try:
        unfinished.touch()
    except OSError as error:
        raise OutputError(
            f"{output} cannot be written ({error.strerror}); choose an --output folder with write permission"
        ) from error
    try:
        yield unfinished
        unfinished.replace(output)
    except OSError as error:
        raise OutputError(f"{output} cannot be written ({error.strerror}); choose another --output") from error
    finally:
        unfinished.unlink(missing_ok=True)
