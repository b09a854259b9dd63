"""The exceptions this package raises on purpose; anything else that escapes is a bug.

Each is also a builtin exception, so that calling code need not know this module. Every message says what was
received and how to mend it, on one line.
"""


class PolypstreamError(Exception):
    """Base of every error raised on purpose."""


class ConfigError(PolypstreamError, ValueError):
    """An option or argument is out of range, or options contradict each other."""


class SourceError(PolypstreamError, OSError):
    """A video or stream cannot be opened or read."""


class SinkError(PolypstreamError, OSError):
    """An output cannot be created or written."""


class ModelError(PolypstreamError, ValueError):
    """A model file is missing, damaged, or not one of ours."""


class BackendError(PolypstreamError, RuntimeError):
    """An inference backend cannot start, or returned something that must not be drawn."""


class ProviderMissingError(BackendError):
    """The runtime is installed, but without the part that a backend needs."""


class DatasetError(PolypstreamError, ValueError):
    """Training data are missing, unreadable or inconsistent; the message lists every case."""


class TrainingError(PolypstreamError, RuntimeError):
    """A training run cannot start, resume or go on."""


class MissingExtraError(PolypstreamError, ImportError):
    """An optional part of the package is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs an optional part of polypstream; install it with: pip install 'polypstream[{extra}]'"
        )
