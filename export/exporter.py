"""The export itself: from a Keras file to a verified ONNX file, which appears under its name only when it is right."""

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
from polypstream.errors import ModelError, SinkError
from polypstream.export.calibration import calibration_pictures
from polypstream.export.config import ExportConfig
from polypstream.export.cost import gmac
from polypstream.export.graph import operator_counts
from polypstream.export.network import float32_network, network_from_file
from polypstream.export.onnx_from_keras import onnx_from_keras
from polypstream.export.optimise import optimised
from polypstream.export.precision import PrecisionLoss, narrowed
from polypstream.export.session import Pictures, frame_ms
from polypstream.export.verify import TOLERANCE, Verification, verification_pictures, verify_against_keras


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export came to."""

    output: Path
    contract: ModelContract
    operators: dict[str, int]
    """Nodes of each operator, most frequent first."""
    parameters: int
    """Parameters of the Keras network; the file holds fewer, as normalisations are folded."""
    size_bytes: int
    verification: Verification
    """Of the float32 graph that the file holds, or was made from."""
    loss: PrecisionLoss | None
    """What a narrower precision changes; None for fp32."""
    gmac_before: float
    """Thousand million multiply-accumulates of the graph as Keras has it, for one frame."""
    gmac: float
    """Of the file."""
    frame_ms_before: float
    """Milliseconds that the graph as Keras has it takes for a frame here, in ONNX Runtime."""
    frame_ms: float
    """Of the file."""
    seconds: float


def export_model(config: ExportConfig) -> ExportReport:
    """Export one model and verify the file before it gets its name.

    Raises `ModelError` where the Keras file is no network of ours or the float32 graph differs from it by more than
    1e-5, `ConfigError` where the size does not fit, `DatasetError` where the pictures to fit a precision to cannot be
    read, `SinkError` where the output cannot be written.
    """
    began = time.monotonic()
    with _appearing_when_done(config.output) as unfinished:
        network = float32_network(network_from_file(config.model), height=config.height, width=config.width)
        contract = _contract(config, network)
        pictures = _pictures(config, contract)
        plain = onnx_from_keras(network)
        model = plain if config.rewriting == "plain" else optimised(plain)
        _write(model, contract, unfinished)
        verification, loss = _verified(unfinished, network, contract), None
        if pictures is not None:
            model, loss = narrowed(model, pictures, precision=config.precision, engine=config.engine)
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
    """Write the contract and the origin into the model, in place of whatever the tools had written there."""
    model.producer_name, model.producer_version = "polypstream", __version__
    model.doc_string = (
        f"{contract.name} {contract.version}: polyp segmentation. "
        f"Input: uint8 {contract.colour_order} (1, {contract.height}, {contract.width}, 3). "
        f"Output: float32 probability (1, {contract.height}, {contract.width}, 1), "
        f"polyp where it reaches {contract.threshold:g}. "
        f"Training data: {contract.training_data}. Licence: {contract.licence}. "
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
        training_data=config.training_data,
        licence=config.licence,
        precision=config.precision,
    )


def _pictures(config: ExportConfig, contract: ModelContract) -> Pictures | None:
    """What the precision is fitted to; None for fp32."""
    if config.precision == "fp32":
        return None
    return calibration_pictures(config.calibration, splits=config.splits, height=contract.height, width=contract.width)


def _write(model: onnx.ModelProto, contract: ModelContract, path: Path) -> None:
    describe(model, contract)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _verified(path: Path, network: keras.Model, contract: ModelContract) -> Verification:
    verification = verify_against_keras(path, network, verification_pictures(contract.height, contract.width))
    if not verification.passed:
        raise ModelError(
            f"the exported file differs from Keras by {verification.largest_difference:.2g}, more than the "
            f"{TOLERANCE:g} allowed, so nothing was written; look for huge weights, or report it with the model"
        )
    return verification


@contextmanager
def _appearing_when_done(output: Path) -> Iterator[Path]:
    """A temporary file beside `output` that takes its place at the end, or vanishes with an error."""
    unfinished = output.with_name(f".{output.stem}-{os.getpid()}.onnx")
    try:
        unfinished.touch()
    except OSError as error:
        raise SinkError(
            f"{output} cannot be written ({error.strerror}); give --output in a folder you can write to"
        ) from error
    try:
        yield unfinished
        unfinished.replace(output)
    except OSError as error:
        raise SinkError(f"{output} cannot be written ({error.strerror}); give another --output") from error
    finally:
        unfinished.unlink(missing_ok=True)
