"""From ONNX to an engine: parse, build, and write it with its description."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import cast

from polypstream import __version__
from polypstream.errors import BackendError, ConfigError, ModelError
from polypstream.realtime.tensorrt import api
from polypstream.realtime.tensorrt.adapter import Flavour, TensorRt, load_tensorrt, shortened
from polypstream.realtime.tensorrt.cuda import Cuda, Device, find_device
from polypstream.realtime.tensorrt.engine_file import (
    BatchRange,
    EngineFile,
    EngineKey,
    Sidecar,
    Target,
    check_writable,
    write_atomically,
    write_engine_file,
)
from polypstream.realtime.tensorrt.onnx_file import OnnxFile, read_onnx
from polypstream.realtime.tensorrt.progress import BuildProgress, ProgressReport

LARGEST_BATCH = 8
_ON_CPU = "or use --backend onnxruntime"


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How to build. Raises `ConfigError` where a value makes no sense."""

    batch: int = LARGEST_BATCH
    """Pictures at once at most, where the ONNX leaves that open; otherwise one."""
    workspace_bytes: int | None = None
    """GPU memory that a layer may use for its own purposes; None: all there is."""
    targets: tuple[str, ...] = ()
    """Compute capabilities, as `sm89`, to build for ahead of time with TensorRT-RTX; none: the GPU of this machine."""
    flavour: Flavour | None = None
    """None: TensorRT where it is installed, else TensorRT-RTX."""
    device: int = 0
    """Which GPU of this machine."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"the largest batch is {self.batch}; it must be at least 1")
        if self.workspace_bytes is not None and self.workspace_bytes < 1 << 20:
            raise ConfigError(f"the workspace is {self.workspace_bytes} bytes; give at least 1 MiB")
        odd = [target for target in self.targets if not re.fullmatch(r"sm\d{2,3}", target)]
        if odd:
            raise ConfigError(f"'{odd[0]}' is no compute capability; write it as sm89")
        if self.targets and self.flavour == "tensorrt":
            raise ConfigError("TensorRT builds for the GPU of this machine only; targets need TensorRT-RTX")


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """A build about to happen: what, with what, for what."""

    onnx: OnnxFile
    trt: TensorRt
    device: Device | None
    """None where it is built ahead of time."""
    key: EngineKey
    workspace_bytes: int | None

    def path(self, folder: Path) -> Path:
        """Where the engine belongs: its model's name and its key."""
        name = re.sub(r"[^\w.+-]+", "_", self.onnx.contract.name).strip("._") or "model"
        return folder / f"{name}-{self.key.digest}.engine"


def plan_build(onnx_path: Path, config: BuildConfig) -> BuildPlan:
    """Read the model, find TensorRT and, unless it is built ahead of time, the GPU.

    Raises `ModelError`, `ConfigError`, `MissingExtraError`, or `BackendError` where there is no driver or no TensorRT
    for this GPU.
    """
    onnx = read_onnx(onnx_path)
    trt = load_tensorrt("rtx" if config.targets else config.flavour)
    device = None if config.targets else _device_to_build_on(config.device, trt)
    target = Target.of(device) if device else Target(compute_capabilities=_sorted(config.targets))
    _check_target(trt, target)
    key = EngineKey(
        onnx_sha256=onnx.sha256,
        height=onnx.contract.height,
        width=onnx.contract.width,
        batch=BatchRange(largest=config.batch) if onnx.has_open_batch else BatchRange(),
        precision=onnx.contract.precision,
        flavour=trt.flavour,
        tensorrt_version=trt.version,
        target=target,
    )
    return BuildPlan(onnx=onnx, trt=trt, device=device, key=key, workspace_bytes=config.workspace_bytes)


def build_engine(
    onnx_path: Path,
    *,
    folder: Path,
    config: BuildConfig | None = None,
    on_progress: Callable[[BuildProgress], None] | None = None,
) -> EngineFile:
    """Build the engine of a model and write it and its description into the folder.

    Computes in the precision that the ONNX file holds, layer by layer; float32 is float32, not TF32. Blocks for
    seconds (TensorRT-RTX) to minutes (TensorRT); what `on_progress` raises ends the build and is raised again.
    Raises what `plan_build` raises, `BackendError` where TensorRT cannot take the model, `SinkError` where the folder
    cannot be written.
    """
    plan = plan_build(onnx_path, config or BuildConfig())
    return build_planned(plan, folder, reason="asked for", on_progress=on_progress)


def build_planned(
    plan: BuildPlan, folder: Path, *, reason: str, on_progress: Callable[[BuildProgress], None] | None = None
) -> EngineFile:
    """`build_engine`, planned before."""
    check_writable(folder)
    began = time.monotonic()
    data = _serialized(plan, _timing_cache_path(plan, folder), on_progress)
    sidecar = Sidecar(
        key=plan.key,
        contract=plan.onnx.contract,
        onnx_name=plan.onnx.path.name,
        onnx_bytes=len(plan.onnx.data),
        input_name=plan.onnx.input.name,
        output_name=plan.onnx.output.name,
        engine_sha256=sha256(data).hexdigest(),
        engine_bytes=len(data),
        build_seconds=round(time.monotonic() - began, 3),
        package_version=__version__,
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return write_engine_file(plan.path(folder), data, sidecar, reason=reason)


def _sorted(targets: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(targets), key=lambda target: int(target.removeprefix("sm"))))


def targets_of(trt: TensorRt) -> tuple[str, ...]:
    """The compute capabilities that TensorRT-RTX builds for; empty for TensorRT, which builds for the GPU at hand."""
    if trt.rtx is None:
        return ()
    return tuple(name.lower() for name in trt.rtx.ComputeCapability.__members__ if name.startswith("SM"))


def _device_to_build_on(index: int, trt: TensorRt) -> Device:
    try:
        return find_device(index)
    except BackendError as error:
        if trt.rtx is None:
            raise
        raise type(error)(f"{error}; an engine for another machine needs --target, as in --target sm89") from None


def _check_target(trt: TensorRt, target: Target) -> None:
    known = targets_of(trt)
    foreign = [one for one in target.compute_capabilities if trt.rtx is not None and one not in known]
    if foreign and target.device_name:
        raise BackendError(
            f"{trt.product} has nothing for the {target}; install TensorRT itself with: "
            f"pip install 'polypstream[tensorrt]', {_ON_CPU}"
        )
    if foreign:
        raise ConfigError(f"{trt.product} does not build for {foreign[0]}; choose from {', '.join(known)}")


def _serialized(plan: BuildPlan, timing_cache: Path, on_progress: Callable[[BuildProgress], None] | None) -> bytes:
    trt, module = plan.trt, plan.trt.module
    if plan.device is not None:
        Cuda(plan.device)  # makes it this thread's GPU
    with trt.log.watching() as watch:
        builder = module.Builder(trt.logger)
        network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        _parse(plan, network)
        config = builder.create_builder_config()
        _configure(plan, builder, network, config)
        cache = _attach_timing_cache(plan, config, timing_cache)
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
    if cache is not None:
        write_atomically(timing_cache, bytes(memoryview(cache.serialize())))
    return data


def _parse(plan: BuildPlan, network: api.INetworkDefinition) -> None:
    parser = plan.trt.module.OnnxParser(network, plan.trt.logger)
    if parser.parse(plan.onnx.data):
        return
    complaints = [_complaint(parser.get_error(index)) for index in range(parser.num_errors)]
    told = "; ".join(complaints[:3]) + (f"; and {len(complaints) - 3} more" if len(complaints) > 3 else "")
    if not any(parser.get_error(index).node_operator() for index in range(parser.num_errors)):
        raise ModelError(f"{plan.onnx.path} cannot be read by {plan.trt.product}: {told}; export it again")
    raise BackendError(
        f"{plan.trt.product} does not take {plan.onnx.path}: {told}; export the model without it, {_ON_CPU}"
    )


def _complaint(error: api.ParserError) -> str:
    operator = error.node_operator()
    where = f"node '{error.node_name()}' ({operator}): " if operator else ""
    reason = error.desc()
    if "Plugin not found" in reason:
        reason = "there is no such operator in TensorRT"
    return where + shortened(reason)


def _configure(
    plan: BuildPlan, builder: api.Builder, network: api.INetworkDefinition, config: api.IBuilderConfig
) -> None:
    module, batch = plan.trt.module, plan.key.batch
    config.clear_flag(module.BuilderFlag.TF32)
    if plan.workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, plan.workspace_bytes)
    if plan.onnx.has_open_batch:
        size = (plan.key.height, plan.key.width, 3)
        profile = builder.create_optimization_profile()
        shapes = ((count, *size) for count in (batch.smallest, batch.likeliest, batch.largest))
        profile.set_shape(network.get_input(0).name, *shapes)
        if config.add_optimization_profile(profile) < 0:
            raise BackendError(f"{plan.trt.product} refuses batches of {batch.smallest} to {batch.largest}")
    if plan.trt.rtx is not None:
        targets = plan.key.target.compute_capabilities
        rtx_config = cast(api.RtxBuilderConfig, config)
        rtx_config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            rtx_config.set_compute_capability(plan.trt.rtx.ComputeCapability.__members__[target.upper()], index)


def _timing_cache_path(plan: BuildPlan, folder: Path) -> Path:
    capabilities = "-".join(plan.key.target.compute_capabilities)
    return folder / f"timing-{plan.trt.flavour}-{plan.trt.version}-{capabilities}.cache"


def _attach_timing_cache(plan: BuildPlan, config: api.IBuilderConfig, path: Path) -> api.ITimingCache | None:
    """The cache in use; None for TensorRT-RTX, which measures nothing. A file that is of no use is left aside."""
    if plan.trt.rtx is not None:
        return None
    for content in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            break
    return config.get_timing_cache()
