"""Reads contract, input, output and checksum of an ONNX file (requires the package `onnx`, in the extras).

Read with `onnx` rather than through an ONNX Runtime session, since a file may be meant for TensorRT alone.
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from polypstream.contract import ModelContract
from polypstream.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A model of this package: uint8 RGB (n, height, width, 3) in, float32 probability (n, height, width, 1) out."""

    path: Path
    data: bytes = field(repr=False)
    sha256: str
    contract: ModelContract
    input_name: str
    output_name: str
    has_open_batch: bool
    """Whether its batch size is dynamic; otherwise it is 1."""


def read_onnx(path: Path) -> OnnxFile:
    """Read and check a file.

    Raises:
        ModelError: It is missing, damaged, or was not made by `polypstream export`.
        MissingExtraError: The package `onnx` is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingExtraError(f"reading an ONNX file for TensorRT ({error})", "tensorrt") from None
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); give the path of an ONNX file") from None
    try:
        model = onnx.ModelProto.FromString(data)
        if not model.HasField("graph"):
            raise ValueError
        contract, source, result = _checked(model)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except (DecodeError, LookupError, ValueError):
        raise ModelError(f"{path} is not an ONNX file, or is damaged; export it again") from None
    return OnnxFile(
        path=path,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        contract=contract,
        input_name=source.name,
        output_name=result.name,
        has_open_batch=_signature(source)[1][0] is None,
    )


def with_open_batch(file: OnnxFile) -> OnnxFile:
    """The same model with a dynamic batch size; unchanged if its graph computes one image at a time.

    `polypstream export` writes a batch of 1. The graph takes others if a batch of 2 at its input arrives at its output,
    which a fixed shape in between would prevent.
    """
    import onnx

    model = onnx.ModelProto.FromString(file.data)
    graph = model.graph
    (source,) = (value for value in graph.input if value.name == file.input_name)
    sides = [value.type.tensor_type.shape.dim[0] for value in (source, graph.output[0])]
    del graph.value_info[:]  # shapes of one image
    sides[0].dim_value = 2
    sides[1].Clear()
    if _signature(onnx.shape_inference.infer_shapes(model).graph.output[0])[1][0] != 2:
        return file
    for side in sides:
        side.dim_param = "n"
    return replace(file, data=model.SerializeToString(), has_open_batch=True)


def _checked(model: "onnx.ModelProto") -> tuple[ModelContract, "onnx.ValueInfoProto", "onnx.ValueInfoProto"]:
    """Contract, input and output."""
    graph, weights = model.graph, model.graph.initializer
    if any(weight.external_data for weight in weights):
        raise ModelError("the ONNX file stores its weights in another file; save it as a single file")
    contract = ModelContract.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    names = {weight.name for weight in weights}
    values = [value for value in graph.input if value.name not in names] + list(graph.output)
    actual = [_signature(value) for value in values]
    size = (contract.height, contract.width)
    if not any(actual == [("uint8", (batch, *size, 3)), ("float32", (batch, *size, 1))] for batch in (1, None)):
        raise ModelError(f"the graph takes and returns {actual}, which differs from its contract; export it again")
    return contract, values[0], values[1]


def _signature(value: "onnx.ValueInfoProto") -> tuple[str, tuple[int | None, ...]]:
    """NumPy's name of the dtype, and the shape, with None for a dynamic dimension."""
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    shape = tuple(side.dim_value if side.HasField("dim_value") else None for side in tensor.shape.dim)
    return tensor_dtype_to_np_dtype(tensor.elem_type).name, shape
