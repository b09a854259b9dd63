"""Finds the engine to run: from the cache, newly built, or named by the user."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, cast

from polypstream.errors import BackendError, ModelError
from polypstream.files import cache_folder, locked
from polypstream.realtime.cuda import Device, find_device
from polypstream.realtime.inference.tensorrt.adapter import TensorRt, load_tensorrt
from polypstream.realtime.inference.tensorrt.builder import BuildConfig, build_planned, plan_build
from polypstream.realtime.inference.tensorrt.engine_file import EngineFile, read_engine_file, sidecar_path
from polypstream.realtime.inference.tensorrt.progress import BuildProgress

if TYPE_CHECKING:
    from polypstream.realtime.inference.tensorrt import api


def default_folder() -> Path:
    """Folder of the engine cache: `polypstream/engines` in the user's cache folder."""
    return cache_folder() / "engines"


def engine_for(
    onnx_path: Path,
    folder: Path | None = None,
    *,
    config: BuildConfig | None = None,
    on_progress: Callable[[BuildProgress], None] | None = None,
) -> EngineFile:
    """The engine of a model for this machine: from the folder if it is there and intact, otherwise newly built.

    Of several processes that need the same engine, one builds it and the others wait. Raises what `build_engine`
    raises.
    """
    folder = folder or default_folder()
    plan = plan_build(onnx_path, config or BuildConfig())
    path = plan.path(folder)
    with locked(path.with_name(f".{path.stem}.lock")):
        if not path.exists():
            return build_planned(plan, folder, reason="there was none", on_progress=on_progress)
        try:
            engine = read_engine_file(path)
            if engine.sidecar.key != plan.key:
                raise ModelError(f"{sidecar_path(path)} describes another engine")
            _check_valid(engine, engine.read(), plan.trt, plan.device)
        except (ModelError, BackendError) as error:
            return build_planned(plan, folder, reason=str(error), on_progress=on_progress)
        return engine


def open_engine(path: Path, *, device: int = 0) -> EngineFile:
    """Open an engine that the user named; it is checked completely and never rebuilt silently.

    If a file of its model's name is next to it, the engine must have been built from it.

    Args:
        path: The engine.
        device: Index of the GPU.

    Raises:
        ModelError: The engine is damaged or of another model.
        BackendError: It is for another TensorRT or GPU, or there is no driver.
        MissingExtraError: Its TensorRT is not installed.
    """
    engine = read_engine_file(path)
    key, onnx = engine.sidecar.key, path.with_name(engine.sidecar.onnx_name)
    if onnx.is_file() and sha256(onnx.read_bytes()).hexdigest() != key.onnx_sha256:
        raise ModelError(f"{path} was built from another {onnx.name} than {onnx}; {_rebuild(engine)}")
    trt = load_tensorrt(key.flavor)
    if key.tensorrt_version != trt.version:
        raise BackendError(
            f"{path} was built with version {key.tensorrt_version}, installed is {trt.product}; {_rebuild(engine)}"
        )
    found = find_device(device)
    if not key.target.fits(found):
        raise BackendError(
            f"{path} was built for {key.target}, this machine has {found.name} ({found.compute_capability}); "
            f"{_rebuild(engine)}"
        )
    _check_valid(engine, engine.read(), trt, found)
    return engine


def _check_valid(engine: EngineFile, data: bytes, trt: TensorRt, device: Device | None) -> None:
    """Ask TensorRT-RTX, which can tell without loading the engine; without a driver, it would crash."""
    if trt.rtx is None or device is None:
        return
    runtime = cast("api.RtxRuntime", trt.module.Runtime(trt.logger))
    validity, diagnostics = runtime.get_engine_validity(data)
    if validity != trt.rtx.EngineValidity.INVALID:
        return
    reasons = trt.rtx.EngineInvalidityDiagnostics.__members__.items()
    found = [name.lower().replace("_", " ") for name, bit in reasons if int(diagnostics) & int(bit)]
    raise BackendError(
        f"{engine.path} does not run here ({', '.join(found) or 'no reason given'}) according to {trt.product}; "
        f"{_rebuild(engine)}"
    )


def _rebuild(engine: EngineFile) -> str:
    return f"build it again with: polypstream build {engine.sidecar.onnx_name}"
