"""Writes a model repository for Triton Inference Server.

    DIR/NAME/config.pbtxt              ONNX Runtime
    DIR/NAME/configs/tensorrt.pbtxt    a TensorRT plan, with `tritonserver --model-config-name tensorrt`
    DIR/NAME/1/model.onnx

Scaling and normalization are part of the graph, which takes uint8 RGB, so there is no ensemble for preprocessing. The
batch of the graph is 1, so the server must not batch requests; more instances process several at a time.
"""

import json
import shutil
from pathlib import Path

import onnxruntime

from polypstream.contract import METADATA_KEY, ModelContract
from polypstream.errors import ModelError, OutputError

TENSORRT_CONFIG = "tensorrt"
"""Name of the configuration for a TensorRT plan."""
_CONFIG = """\
# Input: uint8 RGB; output: probability of polyp. The contract is for: polypstream --backend triton
name: "{name}"
{runtime}
max_batch_size: 0
input [ {{ name: "{input}", data_type: TYPE_UINT8, dims: [ 1, {height}, {width}, 3 ] }} ]
output [ {{ name: "{output}", data_type: TYPE_FP32, dims: [ 1, {height}, {width}, 1 ] }} ]
instance_group [ {{ kind: {kind}, count: 1 }} ]
model_warmup [
  {{
    name: "black"
    batch_size: 1
    inputs {{
      key: "{input}"
      value {{ data_type: TYPE_UINT8, dims: [ 1, {height}, {width}, 3 ], zero_data: true }}
    }}
  }}
]
parameters {{
  key: "{key}"
  value {{ string_value: {contract} }}
}}
"""


def write_repository(model: Path, folder: Path) -> Path:
    """Write an ONNX file and its configurations, or replace them.

    Args:
        model: ONNX file made by `polypstream export`.
        folder: The model repository; other models in it are kept.

    Returns:
        The model's folder, named after the model in the contract.

    Raises:
        ModelError: The file is missing, damaged or has no contract.
        OutputError: The folder cannot be written.
    """
    if not model.is_file():
        raise ModelError(f"there is no model at {model}; give the path of an ONNX file")
    try:
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's exceptions share no base class
        raise ModelError(
            f"{model} cannot be loaded as an ONNX model ({type(error).__name__}); export it again"
        ) from None
    contract = ModelContract.from_metadata(session.get_modelmeta().custom_metadata_map)
    ports = session.get_inputs()[0].name, session.get_outputs()[0].name
    own = folder / contract.name
    onnx = _config(
        contract, *ports, runtime='backend: "onnxruntime"\ndefault_model_filename: "model.onnx"', kind="AUTO"
    )
    plan = _config(
        contract, *ports, runtime='platform: "tensorrt_plan"\ndefault_model_filename: "model.plan"', kind="GPU"
    )
    try:
        for part in ("1", "configs"):
            (own / part).mkdir(parents=True, exist_ok=True)
        (own / "config.pbtxt").write_text(onnx, encoding="utf-8")
        (own / "configs" / f"{TENSORRT_CONFIG}.pbtxt").write_text(plan, encoding="utf-8")
        shutil.copyfile(model, own / "1" / "model.onnx")
    except OSError as error:
        raise OutputError(f"{own} cannot be written ({error.strerror}); choose another folder") from None
    return own


def _config(contract: ModelContract, input_name: str, output_name: str, *, runtime: str, kind: str) -> str:
    return _CONFIG.format(
        name=contract.name,
        runtime=runtime,
        input=input_name,
        output=output_name,
        height=contract.height,
        width=contract.width,
        kind=f"KIND_{kind}",
        key=METADATA_KEY,
        contract=json.dumps(contract.to_metadata()[METADATA_KEY]),
    )
