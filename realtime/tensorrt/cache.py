"""Which engine to run: the one in the cache, a new one, or the one that the user named."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import cast

from polypstream.errors import BackendError, ModelError
from polypstream.realtime.tensorrt import api
from polypstream.realtime.tensorrt.adapter import TensorRt, load_tensorrt
from polypstream.realtime.tensorrt.builder import BuildConfig, build_planned, plan_build
from polypstream.realtime.tensorrt.cuda import Device, find_device
from polypstream.realtime.tensorrt.engine_file import EngineFile, read_engine_file, sidecar_path
from polypstream.realtime.tensorrt.progress import BuildProgress


def default_folder() -> Path:
    """Where engines are kept: `polypstream/engines` in the user's cache folder (XDG_CACHE_HOME, or ~/.cache)."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    root = configured if configured.is_absolute() else Path.home() / ".cache"
    return root / "polypstream" / "engines"


def engine_for(
    onnx_path: Path,
    folder: Path | None = None,
    *,
    config: BuildConfig | None = None,
    on_progress: Callable[[BuildProgress], None] | None = None,
) -> EngineFile:
    """The engine of a model for this machine, from the folder where it is there and whole, else built into it.

    Of several processes that want the same engine, one builds it and the others wait. Raises what `build_engine`
    raises.
    """
    folder = folder or default_folder()
    plan = plan_build(onnx_path, config or BuildConfig())
    path = plan.path(folder)
    with _alone_with(path):
        if not path.exists():
            return build_planned(plan, folder, reason="there was none yet", on_progress=on_progress)
        try:
            engine = read_engine_file(path)
            if engine.sidecar.key != plan.key:
                raise ModelError(f"{sidecar_path(path)} describes another engine")
            _check_valid(engine, engine.read(), plan.trt, plan.device)
        except (ModelError, BackendError) as error:
            return build_planned(plan, folder, reason=str(error), on_progress=on_progress)
        return engine


def open_engine(path: Path, *, onnx_path: Path | None = None, device: int = 0) -> EngineFile:
    """An engine that the user named: checked in all respects, and never built anew behind the user's back.

    `onnx_path` is the model it should be of; without it, a file of the model's name beside the engine is held against
    it. Raises `ModelError` where the engine is damaged or of another model, `BackendError` where it is for another
    TensorRT or GPU or there is no driver, `MissingExtraError` where its TensorRT is not installed.
    """
    engine = read_engine_file(path)
    beside = path.with_name(engine.sidecar.onnx_name)
    _check_model(engine, onnx_path or (beside if beside.is_file() else None))
    trt = load_tensorrt(engine.sidecar.key.flavour)
    _check_version(engine, trt)
    found = find_device(device)
    if not engine.sidecar.key.target.fits(found):
        raise BackendError(
            f"{path} was built for {engine.sidecar.key.target}, this machine has {found.name} "
            f"({found.compute_capability}); {_rebuild(engine)}"
        )
    _check_valid(engine, engine.read(), trt, found)
    return engine


def _check_model(engine: EngineFile, onnx_path: Path | None) -> None:
    if onnx_path is None:
        return
    try:
        checksum = sha256(onnx_path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"{onnx_path} cannot be read ({error.strerror}); give the path of an ONNX file") from None
    if checksum != engine.sidecar.key.onnx_sha256:
        raise ModelError(f"{engine.path} was built from another {onnx_path.name} than {onnx_path}; {_rebuild(engine)}")


def _check_version(engine: EngineFile, trt: TensorRt) -> None:
    built_with = engine.sidecar.key.tensorrt_version
    if built_with != trt.version:
        raise BackendError(
            f"{engine.path} was built with version {built_with}, installed is {trt.product}; {_rebuild(engine)}"
        )


def _check_valid(engine: EngineFile, data: bytes, trt: TensorRt, device: Device | None) -> None:
    """Ask TensorRT-RTX, which knows without loading the engine; only where a driver is, or it crashes."""
    if trt.rtx is None or device is None:
        return
    runtime = cast(api.RtxRuntime, trt.module.Runtime(trt.logger))
    validity, diagnostics = runtime.get_engine_validity(data)
    if validity != trt.rtx.EngineValidity.INVALID:
        return
    reasons = trt.rtx.EngineInvalidityDiagnostics.__members__.items()
    told = [name.lower().replace("_", " ") for name, bit in reasons if int(diagnostics) & int(bit)]
    raise BackendError(
        f"{engine.path} does not run here ({', '.join(told) or 'no reason given'}), says {trt.product}; "
        f"{_rebuild(engine)}"
    )


def _rebuild(engine: EngineFile) -> str:
    return f"build it again with: polypstream build {engine.sidecar.onnx_name}"


@contextmanager
def _alone_with(path: Path) -> Iterator[None]:
    """Keep other processes and threads from building the same engine meanwhile; without locks, each builds its own."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f".{path.stem}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:  # an unwritable folder may hold the engine all the same; if not, writing it says so
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
