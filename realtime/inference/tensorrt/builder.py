"""Builds TensorRT engines: parses ONNX, builds, and writes the engine with its description."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, cast

from polypstream import __version__
from polypstream.errors import BackendError, ConfigError, ModelError, install_command
from polypstream.files import check_writable, write_atomically
from polypstream.realtime.cuda import Device, find_device, select
from polypstream.realtime.inference.tensorrt.adapter import Flavor, TensorRt, load_tensorrt, shortened
from polypstream.realtime.inference.tensorrt.engine_file import (
    EngineFile,
    EngineKey,
    Sidecar,
    Target,
    write_engine_file,
)
from polypstream.realtime.inference.tensorrt.onnx_file import OnnxFile, read_onnx, with_open_batch
from polypstream.realtime.inference.tensorrt.progress import BuildProgress, ProgressReport

if TYPE_CHECKING:
    from polypstream.realtime.inference.tensorrt import api

LARGEST_BATCH = 8
_ON_CPU = "or use the onnxruntime backend"
OnProgress = Callable[[BuildProgress], None]


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Settings of a build. Raises `ConfigError` for values out of range."""

    batch: int | None = None
    """Largest batch; 1 if the graph takes one image only. None: `LARGEST_BATCH` if the ONNX file has a dynamic batch
    size, otherwise 1."""
    workspace_bytes: int | None = None
    """GPU memory in bytes that one layer may use as workspace; None: all of it."""
    targets: tuple[str, ...] = ()
    """Compute capabilities, such as `sm89`, to build for ahead of time with TensorRT-RTX; empty: this machine's GPU."""
    flavor: Flavor | None = None
    """None: TensorRT if it is installed, else TensorRT-RTX."""
    device: int = 0
    """Index of the GPU on this machine."""

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise ConfigError(f"the largest batch is {self.batch}; it must be at least 1")
        if self.workspace_bytes is not None and self.workspace_bytes < 1 << 20:
            raise ConfigError(f"the workspace is {self.workspace_bytes} bytes; give at least 1 MiB")
        odd = [target for target in self.targets if not re.fullmatch(r"sm\d{2,3}", target)]
        if odd:
            raise ConfigError(f"{odd[0]!r} is not a compute capability; write it as sm89")
        if self.targets and self.flavor == "tensorrt":
            raise ConfigError("TensorRT builds for the GPU of this machine only; targets need TensorRT-RTX")


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """A planned build: the model, the TensorRT, the target."""

    onnx: OnnxFile
    trt: TensorRt
    device: Device | None
    """None when building ahead of time."""
    key: EngineKey
    workspace_bytes: int | None

    def path(self, folder: Path) -> Path:
        """Path of the engine in a folder, made of the model's name and the key."""
        name = re.sub(r"[^\w.+-]+", "_", self.onnx.contract.name).strip("._") or "model"
        return folder / f"{name}-{self.key.digest}.engine"


def plan_build(onnx_path: Path, config: BuildConfig) -> BuildPlan:
    """Read the model, and find TensorRT and, unless building ahead of time, the GPU.

    Raises:
        ModelError: The model is missing, damaged or not of this package.
        ConfigError: A target is not supported.
        MissingExtraError: TensorRT is not installed.
        BackendError: There is no driver, or no TensorRT for this GPU.
    """
    onnx = read_onnx(onnx_path)
    if config.batch is not None and config.batch > 1:
        onnx = with_open_batch(onnx)
    trt = load_tensorrt("rtx" if config.targets else config.flavor)
    device = None if config.targets else _device_to_build_on(config.device, trt)
    capabilities = tuple(sorted(set(config.targets), key=lambda target: int(target.removeprefix("sm"))))
    target = Target.of(device) if device else Target(compute_capabilities=capabilities)
    _check_target(trt, target)
    key = EngineKey(
        onnx_sha256=onnx.sha256,
        height=onnx.contract.height,
        width=onnx.contract.width,
        largest_batch=(config.batch or LARGEST_BATCH) if onnx.has_open_batch else 1,
        precision=onnx.contract.precision,
        flavor=trt.flavor,
        tensorrt_version=trt.version,
        target=target,
    )
    return BuildPlan(onnx=onnx, trt=trt, device=device, key=key, workspace_bytes=config.workspace_bytes)


def build_engine(
    onnx_path: Path, *, folder: Path, config: BuildConfig | None = None, on_progress: OnProgress | None = None
) -> EngineFile:
    """Build the engine of a model and write it and its description into the folder.

    The engine computes in the precision of the ONNX file, layer by layer; float32 is float32, not TF32. Blocks for
    seconds (TensorRT-RTX) to minutes (TensorRT). An exception of `on_progress` cancels the build and is raised again.

    Raises:
        BackendError: TensorRT does not support the model; also what `plan_build` raises.
        OutputError: The folder cannot be written.
    """
    plan = plan_build(onnx_path, config or BuildConfig())
    return build_planned(plan, folder, reason="requested", on_progress=on_progress)


def build_planned(plan: BuildPlan, folder: Path, *, reason: str, on_progress: OnProgress | None = None) -> EngineFile:
    """Build an engine by a plan made before; `reason` says why it is built."""
    check_writable(folder)
    began = time.monotonic()
    data = _serialized(plan, folder, on_progress)
    sidecar = Sidecar(
        key=plan.key,
        contract=plan.onnx.contract,
        onnx_name=plan.onnx.path.name,
        onnx_bytes=len(plan.onnx.data),
        input_name=plan.onnx.input_name,
        output_name=plan.onnx.output_name,
        engine_sha256=sha256(data).hexdigest(),
        engine_bytes=len(data),
        build_seconds=round(time.monotonic() - began, 3),
        package_version=__version__,
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return write_engine_file(plan.path(folder), data, sidecar, reason=reason)


def targets_of(trt: TensorRt) -> tuple[str, ...]:
    """The compute capabilities that TensorRT-RTX builds for; empty for TensorRT: it builds for the local GPU only."""
    if trt.rtx is None:
        return ()
    return tuple(name.lower() for name in trt.rtx.ComputeCapability.__members__ if name.startswith("SM"))


def _device_to_build_on(index: int, trt: TensorRt) -> Device:
    try:
        return find_device(index)
    except BackendError as error:
        if trt.rtx is None:
            raise
        raise type(error)(
            f"{error}; an engine for another machine needs its compute capability as the target, such as sm89"
        ) from None


def _check_target(trt: TensorRt, target: Target) -> None:
    known = targets_of(trt)
    foreign = [one for one in target.compute_capabilities if trt.rtx is not None and one not in known]
    if foreign and target.device_name:
        raise BackendError(
            f"{trt.product} does not support the {target}; install TensorRT itself with: "
            f"{install_command('tensorrt')}, {_ON_CPU}"
        )
    if foreign:
        raise ConfigError(f"{trt.product} does not build for {foreign[0]}; choose from {', '.join(known)}")


def _serialized(plan: BuildPlan, folder: Path, on_progress: OnProgress | None) -> bytes:
    trt, module = plan.trt, plan.trt.module
    if plan.device is not None:
        select(plan.device)
    with trt.log.watching() as watch:
        builder = module.Builder(trt.logger)
        network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        _parse(plan, network)
        config = builder.create_builder_config()
        _configure(plan, builder, network, config)
        timing_cache = _attach_timing_cache(plan, config, folder)
        report = ProgressReport(on_progress)
        config.progress_monitor = report.monitor(module)
        built = builder.build_serialized_network(network, config)
        report.raise_again()
        if built is None:
            raise BackendError(
                f"{trt.product} cannot build {plan.onnx.path} for {plan.key.target} ({watch.reason}); "
                f"try another precision or target, a larger workspace, {_ON_CPU}"
            )
        data = bytes(memoryview(built))
    used = config.get_timing_cache() if timing_cache else None
    if timing_cache and used is not None:
        write_atomically(timing_cache, bytes(memoryview(used.serialize())))
    return data


def _parse(plan: BuildPlan, network: "api.INetworkDefinition") -> None:
    parser = plan.trt.module.OnnxParser(network, plan.trt.logger)
    if parser.parse(plan.onnx.data):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    listed = "; ".join(map(_problem, errors[:3])) + (f"; and {len(errors) - 3} more" if len(errors) > 3 else "")
    if not any(error.node_operator() for error in errors):
        raise ModelError(f"{plan.onnx.path} cannot be parsed by {plan.trt.product}: {listed}; export it again")
    raise BackendError(
        f"{plan.trt.product} does not support {plan.onnx.path}: {listed}; "
        f"export the model without that operator, {_ON_CPU}"
    )


def _problem(error: "api.ParserError") -> str:
    operator, reason = error.node_operator(), error.desc()
    where = f"node '{error.node_name()}' ({operator}): " if operator else ""
    return where + ("TensorRT has no such operator" if "Plugin not found" in reason else shortened(reason))


def _configure(
    plan: BuildPlan, builder: "api.Builder", network: "api.INetworkDefinition", config: "api.IBuilderConfig"
) -> None:
    module, largest = plan.trt.module, plan.key.largest_batch
    config.clear_flag(module.BuilderFlag.TF32)
    if plan.workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, plan.workspace_bytes)
    if plan.onnx.has_open_batch:
        profile = builder.create_optimization_profile()
        shapes = ((count, plan.key.height, plan.key.width, 3) for count in (1, 1, largest))
        profile.set_shape(network.get_input(0).name, *shapes)
        if config.add_optimization_profile(profile) < 0:
            raise BackendError(f"{plan.trt.product} rejects batches of 1 to {largest}")
    if plan.trt.rtx is not None:
        targets = plan.key.target.compute_capabilities
        rtx_config = cast("api.RtxBuilderConfig", config)
        rtx_config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            rtx_config.set_compute_capability(plan.trt.rtx.ComputeCapability.__members__[target.upper()], index)


def _attach_timing_cache(plan: BuildPlan, config: "api.IBuilderConfig", folder: Path) -> Path | None:
    """Its file; None for TensorRT-RTX, which has no such cache. A file that does not fit is ignored."""
    if plan.trt.rtx is not None:
        return None
    path = folder / f"timing-{plan.trt.version}-{'-'.join(plan.key.target.compute_capabilities)}.cache"
    for content in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            break
    return path
