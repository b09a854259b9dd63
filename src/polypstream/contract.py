"""What a model file promises about itself: its input, output, operating point and origin.

The contract travels inside the ONNX file, as one JSON entry of its metadata, and is checked when the file is loaded.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from polypstream.errors import ModelError

METADATA_KEY = "polypstream.contract"
FORMAT = 1
"""Raised when a reader of an older contract would misunderstand a newer one."""


@dataclass(frozen=True, kw_only=True)
class ModelContract:
    """The promise. Input: uint8 (1, height, width, 3); output: float32 probability (1, height, width, 1)."""

    name: str
    version: str
    """Version of the weights, not of the software."""
    height: int
    width: int
    threshold: float
    """A pixel whose probability reaches this is polyp."""
    training_data: str
    licence: str
    colour_order: str = "RGB"
    precision: str = "fp32"
    normalisation: str = "inside the graph"
    format: int = FORMAT

    def __post_init__(self) -> None:
        for name, wanted in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise ModelError(f"contract field '{name}' is {value!r}; it should be of type {wanted.__name__}")
        if self.format != FORMAT:
            raise ModelError(
                f"the model's contract is of format {self.format}, this software reads {FORMAT}; update one of the two"
            )
        if self.colour_order != "RGB":
            raise ModelError(f"the model takes {self.colour_order} pictures; this software feeds RGB; export it again")
        if min(self.height, self.width) < 8 or self.height % 8 or self.width % 8:
            raise ModelError(f"the model's input is {self.width}x{self.height}; both sides must be multiples of 8")
        if not 0 < self.threshold < 1:
            raise ModelError(f"the model's threshold is {self.threshold}; it must lie between 0 and 1")

    def to_metadata(self) -> dict[str, str]:
        """The metadata entries that carry this contract."""
        return {METADATA_KEY: json.dumps(asdict(self), sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> "ModelContract":
        """Read the contract back; raises `ModelError` where it is missing, incomplete or not ours."""
        text = metadata.get(METADATA_KEY)
        if text is None:
            raise ModelError("the model carries no polypstream contract; make one with: polypstream export")
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ModelError(f"the model's contract is not JSON ({error}); export it again") from None
        if not isinstance(values, dict):
            raise ModelError(f"the model's contract is a {type(values).__name__}, not an object; export it again")
        known = {field.name for field in fields(cls)}
        if values.keys() != known:
            odd = ", ".join(sorted(values.keys() ^ known))
            raise ModelError(f"the model's contract has missing or unknown fields ({odd}); export it again")
        return cls(**values)


_TYPES: Mapping[str, type] = {
    **dict.fromkeys(("name", "version", "training_data", "licence", "colour_order", "precision", "normalisation"), str),
    **dict.fromkeys(("height", "width", "format"), int),
    "threshold": float,
}
