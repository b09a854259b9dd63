"""An engine on disk: the file, the JSON beside it that says what it is, and the checks that it is whole and fits."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from polypstream.contract import METADATA_KEY, ModelContract
from polypstream.errors import ModelError, SinkError
from polypstream.realtime.tensorrt.adapter import Flavour
from polypstream.realtime.tensorrt.cuda import Device

FORMAT = 1
"""Raised when engines are built differently from the same request; part of the key."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The GPUs an engine is for."""

    compute_capabilities: tuple[str, ...]
    """As `sm89`, sorted."""
    device_name: str | None = None
    """The GPU it was built on; None: built ahead of time, for any GPU of these compute capabilities."""

    @classmethod
    def of(cls, device: Device) -> "Target":
        """That GPU and its like."""
        return cls(compute_capabilities=(device.compute_capability,), device_name=device.name)

    def fits(self, device: Device) -> bool:
        """Whether that GPU is among them."""
        return device.compute_capability in self.compute_capabilities and self.device_name in (None, device.name)

    def __str__(self) -> str:
        capabilities = ", ".join(self.compute_capabilities)
        return f"{self.device_name} ({capabilities})" if self.device_name else f"any GPU of {capabilities}"


@dataclass(frozen=True, kw_only=True)
class BatchRange:
    """How many pictures at once an engine takes."""

    smallest: int = 1
    likeliest: int = 1
    """What it is tuned for."""
    largest: int = 1


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """All that decides which engine comes out of a build."""

    onnx_sha256: str
    height: int
    width: int
    batch: BatchRange
    precision: str
    flavour: Flavour
    tensorrt_version: str
    target: Target
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What stands in the JSON file beside an engine."""

    key: EngineKey
    contract: ModelContract
    onnx_name: str
    onnx_bytes: int
    input_name: str
    output_name: str
    engine_sha256: str
    engine_bytes: int
    build_seconds: float
    package_version: str
    built_at: str
    """ISO 8601, UTC."""

    def to_json(self) -> str:
        """As it is written; the input's shapes are spelt out for people to read."""
        plain = asdict(self)
        plain["contract"] = json.loads(self.contract.to_metadata()[METADATA_KEY])
        height, width, batch = self.key.height, self.key.width, self.key.batch
        shapes = {name: [count, height, width, 3] for name, count in asdict(batch).items()}
        return json.dumps({**plain, "input_shapes": shapes}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Sidecar":
        """Read it back; raises `ModelError` where anything is missing, unknown or of the wrong kind."""
        try:
            plain = json.loads(text)
            plain.pop("input_shapes")
            contract = ModelContract.from_metadata({METADATA_KEY: json.dumps(plain.pop("contract"))})
            key = _key(plain.pop("key"))
            sidecar = cls(key=key, contract=contract, **plain)
        except ModelError:
            raise
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise ModelError(f"the description is damaged ({error}); build the engine again") from None
        if any(not isinstance(getattr(sidecar, name), wanted) for name, wanted in _TYPES.items()):
            raise ModelError("the description is damaged; build the engine again")
        return sidecar


@dataclass(frozen=True, kw_only=True)
class EngineFile:
    """An engine on disk and what its sidecar says."""

    path: Path
    sidecar: Sidecar
    reason: str | None = None
    """Why it was built just now; None where it was there already."""

    @property
    def contract(self) -> ModelContract:
        """The promise of the model it was built from."""
        return self.sidecar.contract

    def read(self) -> bytes:
        """The engine; raises `ModelError` where the file is gone or not the one that was built."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read ({error.strerror}); build the engine again") from None
        if len(data) != self.sidecar.engine_bytes:
            raise ModelError(
                f"{self.path} has {len(data):,} bytes where {self.sidecar.engine_bytes:,} were written: "
                "it is cut off or was exchanged; build the engine again"
            )
        if hashlib.sha256(data).hexdigest() != self.sidecar.engine_sha256:
            raise ModelError(f"{self.path} was changed since it was built; build the engine again")
        return data


def sidecar_path(engine: Path) -> Path:
    """Where the description of an engine lies."""
    return engine.with_suffix(".json")


def read_engine_file(path: Path) -> EngineFile:
    """Read an engine's description and check that the engine is whole.

    Raises `ModelError` where either is missing, damaged, or not of the other.
    """
    if not path.is_file():
        raise ModelError(f"there is no engine at {path}; make one with: polypstream build MODEL.onnx")
    try:
        text = sidecar_path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ModelError(
            f"{path} has no readable {sidecar_path(path).name} beside it, which says what it is; "
            "keep the two together, or build the engine again"
        ) from None
    try:
        sidecar = Sidecar.from_json(text)
    except ModelError as error:
        raise ModelError(f"{sidecar_path(path)}: {error}") from None
    engine = EngineFile(path=path, sidecar=sidecar)
    engine.read()
    return engine


def write_engine_file(path: Path, data: bytes, sidecar: Sidecar, *, reason: str) -> EngineFile:
    """Write the two files; the engine gets its name last, so that one that is there is described and whole.

    Raises `SinkError` where the folder cannot be written.
    """
    write_atomically(sidecar_path(path), sidecar.to_json().encode())
    write_atomically(path, data)
    return EngineFile(path=path, sidecar=sidecar, reason=reason)


def check_writable(folder: Path) -> None:
    """Make the folder where it is missing; raises `SinkError` where nothing can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all; raises `SinkError` where it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None
    unfinished = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        unfinished.chmod(0o644)
        unfinished.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        unfinished.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> SinkError:
    return SinkError(f"{path} cannot be written ({error.strerror}); give a folder you can write to, with enough space")


def _key(plain: Mapping[str, Any]) -> EngineKey:
    target = Target(
        compute_capabilities=tuple(plain["target"]["compute_capabilities"]), device_name=plain["target"]["device_name"]
    )
    batch = BatchRange(**plain["batch"])
    if plain["flavour"] not in get_args(Flavour):
        raise ValueError(f"flavour {plain['flavour']!r}")
    if not all(isinstance(getattr(batch, one.name), int) for one in fields(batch)):
        raise ValueError(f"batch {plain['batch']!r}")
    return EngineKey(**{**plain, "target": target, "batch": batch})


_TYPES: Mapping[str, type] = {
    **dict.fromkeys(("onnx_name", "input_name", "output_name", "engine_sha256", "package_version", "built_at"), str),
    **dict.fromkeys(("onnx_bytes", "engine_bytes"), int),
}
