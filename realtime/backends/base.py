"""What segmenters share."""

from typing import Self

from polypstream.contract import ModelContract


class OfContract:
    """The size that the model's contract states."""

    contract: ModelContract

    @property
    def height(self) -> int:
        """Rows of the picture the network takes."""
        return self.contract.height

    @property
    def width(self) -> int:
        """Columns of the picture the network takes."""
        return self.contract.width


class SessionSegmenter(OfContract):
    """One whose session lives as long as it does: a context manager with nothing to release."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The session ends with this object."""
