"""Engine files: the engine, the JSON file that describes it (sidecar), and checks that both are intact and fit."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from polypstream.contract import METADATA_KEY, ModelContract
from polypstream.errors import ModelError
from polypstream.files import write_atomically
from polypstream.realtime.cuda import Device
from polypstream.realtime.inference.tensorrt.adapter import Flavor

FORMAT = 3
"""Increased when engines are built differently from the same settings; part of the key."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The GPUs that an engine runs on."""

    compute_capabilities: tuple[str, ...]
    """Such as `sm89`, sorted."""
    device_name: str | None = None
    """The GPU it was built on; None if built ahead of time for any GPU of these compute capabilities."""

    @classmethod
    def of(cls, device: Device) -> "Target":
        """A GPU and others of the same model."""
        return cls(compute_capabilities=(device.compute_capability,), device_name=device.name)

    def fits(self, device: Device) -> bool:
        """Whether a GPU is among them."""
        return device.compute_capability in self.compute_capabilities and self.device_name in (None, device.name)

    def __str__(self) -> str:
        capabilities = ", ".join(self.compute_capabilities)
        return f"{self.device_name} ({capabilities})" if self.device_name else f"any GPU of {capabilities}"


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """Everything that determines the engine that a build produces."""

    onnx_sha256: str
    height: int
    width: int
    largest_batch: int = 1
    """The engine accepts batches of 1 to this size, and is optimized for 1."""
    precision: str
    flavor: Flavor
    tensorrt_version: str
    target: Target
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """Hash of the key: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """Content of the JSON file next to an engine."""

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
        """The text of the file."""
        plain = asdict(self)
        plain["contract"] = json.loads(self.contract.to_metadata()[METADATA_KEY])
        return json.dumps(plain, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Sidecar":
        """Parse the file; raises `ModelError` if anything is missing, unknown or of the wrong type."""
        try:
            plain = json.loads(text)
            contract = ModelContract.from_metadata({METADATA_KEY: json.dumps(plain.pop("contract"))})
            key = plain.pop("key")
            target = key.pop("target")
            capabilities, name = tuple(target["compute_capabilities"]), target["device_name"]
            _check_types(key, EngineKey)
            _check_types(plain, cls)
            if key["flavor"] not in get_args(Flavor):
                raise ValueError(f"flavor {key['flavor']!r}")
            target = Target(compute_capabilities=capabilities, device_name=name)
            return cls(key=EngineKey(target=target, **key), contract=contract, **plain)
        except ModelError:
            raise
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise ModelError(f"the description is damaged ({error}); build the engine again") from None


@dataclass(frozen=True, kw_only=True)
class EngineFile:
    """An engine on disk and its description."""

    path: Path
    sidecar: Sidecar
    reason: str | None = None
    """Why it has just been built; None if it existed before."""

    @property
    def contract(self) -> ModelContract:
        """The contract of the model it was built from."""
        return self.sidecar.contract

    def read(self) -> bytes:
        """Read the engine; raises `ModelError` if the file is missing or was changed."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read ({error.strerror}); build the engine again") from None
        if len(data) != self.sidecar.engine_bytes:
            raise ModelError(
                f"{self.path} has {len(data):,} bytes where {self.sidecar.engine_bytes:,} were written: "
                "it is truncated or was replaced; build the engine again"
            )
        if hashlib.sha256(data).hexdigest() != self.sidecar.engine_sha256:
            raise ModelError(f"{self.path} was changed since it was built; build the engine again")
        return data


def sidecar_path(engine: Path) -> Path:
    """Path of the description of an engine."""
    return engine.with_suffix(".json")


def read_engine_file(path: Path) -> EngineFile:
    """Read an engine's description and check that the engine is intact.

    Raises `ModelError` if either is missing or damaged, or if they do not belong together.
    """
    if not path.is_file():
        raise ModelError(f"there is no engine at {path}; make one with: polypstream build MODEL.onnx")
    try:
        sidecar = Sidecar.from_json(sidecar_path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise ModelError(
            f"{path} has no readable {sidecar_path(path).name} next to it, which describes it; "
            "keep the two together, or build the engine again"
        ) from None
    except ModelError as error:
        raise ModelError(f"{sidecar_path(path)}: {error}") from None
    engine = EngineFile(path=path, sidecar=sidecar)
    engine.read()
    return engine


def write_engine_file(path: Path, data: bytes, sidecar: Sidecar, *, reason: str) -> EngineFile:
    """Write both files, the engine last, so that an existing engine is always described and complete.

    Raises `OutputError` if the folder cannot be written.
    """
    write_atomically(sidecar_path(path), sidecar.to_json())
    write_atomically(path, data)
    return EngineFile(path=path, sidecar=sidecar, reason=reason)


def _check_types(plain: dict[str, Any], kind: type) -> None:
    """Raise `TypeError` unless strings and numbers are what the fields of a dataclass say."""
    for name, value in plain.items():
        wanted = kind.__annotations__[name]
        if wanted in (str, int) and not isinstance(value, wanted):
            raise TypeError(f"{name} is {value!r}")
