"""The contract of a model file: its input, output, operating points and origin.

It is stored inside the ONNX file, as one JSON entry of the metadata, and checked whenever the file is loaded.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import get_args

from polypstream.content import CropRule
from polypstream.errors import ConfigError, ModelError

METADATA_KEY = "polypstream.contract"
FORMAT = 3
"""Format version; increased on incompatible changes. Formats 1 and 2 are still read."""

MIN_AREA_SHARE = 0.0005
"""Smaller regions are noise: the smallest polyp of CVC-ClinicDB covers 0.0017 of its image, the specks left in the
masks of public sets under 0.0001."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Sensitivity settings of a live feed. Raises `ConfigError` for values out of range."""

    name: str
    threshold: float
    """Probability from which a pixel is polyp; between 0 and 1."""
    min_area_share: float = MIN_AREA_SHARE
    """Minimum area of a region, as a fraction of the frame."""
    min_peak: float = 0.0
    """Probability that a region must reach somewhere, at least; up to `threshold`, it changes nothing."""
    appear_ms: float = 80
    """Time in ms for which a polyp must be detected to appear; 80 is just longer than most false alarms of a certified
    device (66 ms)."""
    vanish_ms: float = 400
    """Time in ms without a detection after which a polyp vanishes."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"the operating point's name is {self.name!r}; give it a word, such as sensitive")
        for name in ("threshold", "min_area_share", "min_peak", "appear_ms", "vanish_ms"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"{name} of operating point {self.name} is {value!r}; it must be a number")
        if not 0 < self.threshold < 1:
            raise ConfigError(f"the threshold is {self.threshold:g}; it must be between 0 and 1")
        if not 0 <= self.min_area_share < 1:
            raise ConfigError(f"min_area_share is {self.min_area_share:g}; it must be from 0 to below 1")
        if not 0 <= self.min_peak < 1:
            raise ConfigError(f"min_peak is {self.min_peak:g}; it must be from 0 to below 1")
        for name in ("appear_ms", "vanish_ms"):
            value = getattr(self, name)
            if not 0 <= value <= 60_000:
                raise ConfigError(f"{name} is {value:g}; it must be from 0 to 60000 milliseconds")

    def with_threshold(self, threshold: float | None) -> "OperatingPoint":
        """The same settings with a threshold that a user chose, without a minimum peak; None changes nothing."""
        return self if threshold is None else replace(self, threshold=threshold, min_peak=0.0)


DEFAULT_POINT = "default"
"""Name of the operating point of a model without any."""


@dataclass(frozen=True, kw_only=True)
class ModelContract:
    """Metadata of a model file. Input: uint8 (1, height, width, 3); output: float32 probability (1, height, width, 1).

    Raises `ModelError` for unsupported values.
    """

    name: str
    version: str
    """Version of the weights, not of the software."""
    height: int
    width: int
    threshold: float
    """Probability from which a pixel is polyp, for masks and recordings."""
    min_peak: float = 0.0
    """Probability that a region must reach somewhere, for masks and recordings; see `OperatingPoint.min_peak`."""
    training_data: str
    license: str
    color_order: str = "RGB"
    precision: str = "fp32"
    normalization: str = "inside the graph"
    crop: CropRule = "none"
    """Part of a frame that the input covers: all of it, or the bounding box of the content area."""
    operating_points: tuple[OperatingPoint, ...] = ()
    """Operating points for live feeds, the default first; if none is given, one with the model's threshold."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        for name, wanted in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise ModelError(f"contract field '{name}' is {value!r}; it must be of type {wanted.__name__}")
        if self.format != FORMAT:
            raise ModelError(
                f"the model's contract has format {self.format}, this software reads up to {FORMAT}; update polypstream"
            )
        if self.color_order != "RGB":
            raise ModelError(f"the model takes {self.color_order} images; this software feeds RGB; export it again")
        if self.crop not in get_args(CropRule):
            raise ModelError(
                f"the model takes images cropped by the rule {self.crop!r}, this software supports "
                f"{' and '.join(get_args(CropRule))}; update polypstream"
            )
        if min(self.height, self.width) < 8 or self.height % 8 or self.width % 8:
            raise ModelError(f"the model's input is {self.width}x{self.height}; both sides must be multiples of 8")
        if not 0 < self.threshold < 1:
            raise ModelError(f"the model's threshold is {self.threshold}; it must be between 0 and 1")
        if not 0 <= self.min_peak < 1:
            raise ModelError(f"the model's min_peak is {self.min_peak}; it must be from 0 to below 1")
        if not self.operating_points:
            point = OperatingPoint(name=DEFAULT_POINT, threshold=self.threshold, min_peak=self.min_peak)
            object.__setattr__(self, "operating_points", (point,))
        names = [point.name for point in self.operating_points]
        if len(set(names)) < len(names):
            raise ModelError(f"the model's operating points are named {', '.join(names)}; each name must be unique")

    def operating_point(self, name: str | None = None) -> OperatingPoint:
        """An operating point by name; None for the first. Raises `ConfigError` for an unknown name."""
        points = {point.name: point for point in self.operating_points}
        if name is not None and name not in points:
            raise ConfigError(
                f"the model {self.name} {self.version} has no operating point {name!r}; choose one of "
                f"{', '.join(points)}"
            )
        return self.operating_points[0] if name is None else points[name]

    def recording_point(self, name: str | None = None) -> OperatingPoint:
        """Settings for recordings: a named operating point, or None for `threshold` and `min_peak` of the model.

        Its times to appear and vanish are not used.
        """
        if name:
            return self.operating_point(name)
        return OperatingPoint(name=DEFAULT_POINT, threshold=self.threshold, min_peak=self.min_peak)

    def to_metadata(self) -> dict[str, str]:
        """The metadata entries that carry this contract."""
        return {METADATA_KEY: json.dumps(asdict(self), sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "ModelContract":
        """Read a contract in format 3, 2 or 1.

        Raises:
            ModelError: It is missing, incomplete, or not of this package.
        """
        text = metadata.get(METADATA_KEY)
        if text is None:
            raise ModelError("the model carries no polypstream contract; make one with: polypstream export")
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ModelError(f"the model's contract is not JSON ({error}); export it again") from None
        if not isinstance(values, dict):
            raise ModelError(f"the model's contract is a {type(values).__name__}, not an object; export it again")
        return cls.from_values(values)

    @classmethod
    def from_values(cls, values: Mapping[str, object]) -> "ModelContract":
        """Create a contract from a parsed JSON object; raises `ModelError` as `from_metadata` does."""
        plain = _upgraded(values)
        known = {field.name for field in fields(cls)}
        is_newer = isinstance(plain.get("format"), int) and plain["format"] != FORMAT
        if plain.keys() != known and not is_newer:
            odd = ", ".join(sorted(plain.keys() ^ known))
            raise ModelError(f"the model's contract has missing or unknown fields ({odd}); export it again")
        plain["operating_points"] = _points(plain.get("operating_points", ()))
        return cls(**{name: value for name, value in plain.items() if name in known})  # type: ignore[arg-type]


def _points(plain: object) -> tuple[OperatingPoint, ...]:
    if not isinstance(plain, list | tuple) or not all(isinstance(point, dict) for point in plain):
        raise ModelError(f"contract field 'operating_points' is {plain!r}; it must be a list of objects")
    try:
        return tuple(OperatingPoint(**point) for point in plain)
    except (ConfigError, TypeError) as error:
        raise ModelError(f"contract field 'operating_points': {error}; export the model again") from None


_RENAMED = {"licence": "license", "colour_order": "color_order", "normalisation": "normalization"}
"""Current names of fields of format 1."""


def _upgraded(values: Mapping[str, object]) -> dict[str, object]:
    """Convert a contract from formats 1 and 2 to 3; others are returned as they are."""
    plain = dict(values)
    if plain.get("format") == 1:
        plain = {_RENAMED.get(name, name): value for name, value in values.items()}
        plain |= {"crop": "none", "operating_points": (), "format": 2}
    if plain.get("format") == 2:
        plain |= {"min_peak": 0.0, "format": FORMAT}
    return plain


_TYPES: Mapping[str, type] = {
    **dict.fromkeys(
        ("name", "version", "training_data", "license", "color_order", "precision", "normalization", "crop"), str
    ),
    **dict.fromkeys(("height", "width", "format"), int),
    **dict.fromkeys(("threshold", "min_peak"), float),
    "operating_points": tuple,
}
