"""What segmenters share whose session lives as long as they do."""

from typing import Self

from polypstream.contract import ModelContract


class SessionSegmenter:
    """The size by the contract, and a context manager with nothing to release."""

    contract: ModelContract

    @property
    def height(self) -> int:
        """Rows of the picture the network takes."""
        return self.contract.height

    @property
    def width(self) -> int:
        """Columns of the picture the network takes."""
        return self.contract.width

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The session ends with this object."""
