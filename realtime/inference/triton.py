"""A model on a Triton Inference Server, through gRPC (extra `[triton]`).

`polypstream export --triton` writes what the server needs. The contract is a parameter of the model's configuration.
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from time import monotonic, sleep
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from polypstream.arrays import Probability, Rgb
from polypstream.contract import ModelContract
from polypstream.errors import BackendError, ConfigError, MissingExtraError, ModelError
from polypstream.realtime.inference.base import ContractSize, checked_image, checked_probability

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

ADDRESS = re.compile(r"(?P<server>[^/\s]+:\d+)(?:/(?P<model>[^/\s]+)(?:/(?P<version>\d+))?)?/?")
TIMEOUT_S = 5.0
"""Time for one answer, in seconds."""
_RETRY_S = 0.2
_MAX_PARALLEL = 4
_PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "NOT_FOUND")
"""gRPC status codes of a server that is away or starting: it answers NOT_FOUND until the model is loaded."""
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
]

T = TypeVar("T")


class TritonSegmenter(ContractSize):
    """Runs a model on a Triton server. A context manager; not thread-safe.

    While the server is away, `segment` tries again; the connection is made again, and the model compared with the
    contract, before the next inference, and also if another version of the model answers.

    Args:
        url: `HOST:PORT`, `HOST:PORT/MODEL` or `HOST:PORT/MODEL/VERSION`, of the server's gRPC port (usually 8001).
            Without a model, the only one that is ready; without a version, the newest.
        patience_s: Time in seconds for which one inference is tried again.
        timeout_s: Time for one answer, in seconds.

    Raises:
        ConfigError: The address is malformed.
        BackendError: The server does not answer, or does not have the model.
        ModelError: The model has no contract, or its inputs and outputs differ from it.
        MissingExtraError: tritonclient is not installed.
    """

    def __init__(self, url: str, *, patience_s: float, timeout_s: float = TIMEOUT_S) -> None:
        match = ADDRESS.fullmatch(url)
        if match is None:
            raise ConfigError(
                f"the address of the server is {url!r}; give HOST:PORT/MODEL, such as localhost:8001/mine"
            )
        try:
            from tritonclient import grpc, utils
        except ImportError as error:
            raise MissingExtraError(f"the triton backend ({error})", "triton") from None
        self._grpc, self._failure = grpc, utils.InferenceServerException
        self._server, self._version = str(match["server"]), match["version"] or ""
        self._patience_s, self._timeout_s = patience_s, timeout_s
        self._client: InferenceServerClient | None = None
        self._is_lost, self._answered_version = False, ""
        try:
            self._model = str(match["model"] or self._asked(self._only_model))
            self.contract, self._input, self._output, self._instances = self._asked(self._described)
        except BaseException:
            self.__exit__()
            raise

    @property
    def backend(self) -> str:
        """Name of the backend."""
        return "triton"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection; the next inference opens it again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB image (height, width, 3)."""
        image = checked_image(rgb, self.contract)
        until = monotonic() + self._patience_s
        while True:
            try:
                if self._is_lost:
                    self._check_unchanged()
                probability = self._inferred(image)
            except self._failure as error:
                self._is_lost = True
                if not _is_passing(error) or monotonic() >= until:
                    raise BackendError(self._explained(error)) from None
                sleep(_RETRY_S)
            else:
                self._is_lost = False
                return checked_probability(probability)

    def in_parallel(self) -> Sequence["TritonSegmenter"]:
        """Segmenters with a connection each, one more than the server has instances; the same objects on each call."""
        return self._side_by_side

    @cached_property
    def _side_by_side(self) -> Sequence["TritonSegmenter"]:
        url = "/".join(filter(None, (self._server, self._model, self._version)))
        others = range(min(self._instances, _MAX_PARALLEL - 1))
        return [self, *(TritonSegmenter(url, patience_s=self._patience_s, timeout_s=self._timeout_s) for _ in others)]

    def _connected(self) -> "InferenceServerClient":
        if self._client is None:
            self._client = self._grpc.InferenceServerClient(self._server, channel_args=_CHANNEL)
        return self._client

    def _asked(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except self._failure as error:
            raise BackendError(self._explained(error)) from None

    def _only_model(self) -> str:
        index = self._connected().get_model_repository_index(client_timeout=self._timeout_s)
        names = sorted({model.name for model in index.models if model.state == "READY"})
        if len(names) != 1:
            raise BackendError(
                f"the server at {self._server} has {', '.join(names) or 'no model'} ready; name one: "
                f"--url {self._server}/MODEL"
            )
        return str(names[0])

    def _described(self) -> tuple[ModelContract, str, str, int]:
        """Contract, names of input and output, and number of instances."""
        arguments = {"model_version": self._version, "client_timeout": self._timeout_s}
        config = self._connected().get_model_config(self._model, **arguments).config
        metadata = self._connected().get_model_metadata(self._model, **arguments)
        try:
            parameters = {key: value.string_value for key, value in config.parameters.items()}
            contract = ModelContract.from_metadata(parameters)
            size = [1, contract.height, contract.width]
            ports = [
                [(port.datatype, [abs(side) for side in port.shape]) for port in ports]  # -1: any batch
                for ports in (metadata.inputs, metadata.outputs)
            ]
            if ports != [[("UINT8", [*size, 3])], [("FP32", [*size, 1])]]:
                raise ModelError(
                    f"the server takes {ports[0]} and returns {ports[1]}, which differs from the contract; write the "
                    "repository again with: polypstream export --triton"
                )
        except ModelError as error:
            raise ModelError(f"{self._server}/{self._model}: {error}") from None
        instances = sum(group.count * max(len(group.gpus), 1) for group in config.instance_group)
        return contract, metadata.inputs[0].name, metadata.outputs[0].name, max(instances, 1)

    def _check_unchanged(self) -> None:
        """Compare the contract: the server may have another model after an outage or an update."""
        contract, self._input, self._output, _ = self._described()
        if contract != self.contract:
            raise BackendError(
                f"the server at {self._server} now has {contract.name} {contract.version} in place of "
                f"{self.contract.name} {self.contract.version}; start again"
            )

    def _inferred(self, image: Rgb) -> Probability:
        tensor = self._grpc.InferInput(self._input, [1, *image.shape], "UINT8")
        tensor.set_data_from_numpy(np.ascontiguousarray(image)[None])
        answer = self._connected().infer(
            self._model, [tensor], model_version=self._version, client_timeout=self._timeout_s
        )
        version = str(answer.get_response().model_version)
        if version != self._answered_version and self._answered_version:
            self._check_unchanged()
        self._answered_version = version
        wanted = (1, self.contract.height, self.contract.width, 1)
        try:
            output = answer.as_numpy(self._output)
        except ValueError as error:  # fewer or more bytes than the shape says
            raise BackendError(f"the server at {self._server} returned a damaged answer ({error})") from None
        if output is None or output.shape != wanted or output.dtype != np.float32:
            received = "no output" if output is None else f"{output.dtype} {output.shape}"
            raise BackendError(f"the server at {self._server} returned {received} in place of float32 {wanted}")
        return np.asarray(output[0, :, :, 0])

    def _explained(self, error: Exception) -> str:
        code, message = _code(error), " ".join(str(getattr(error, "message", lambda: error)()).split())
        if code == "UNAVAILABLE":
            return f"no Triton server answers at {self._server} ({message}); start it, or correct --url"
        if code == "DEADLINE_EXCEEDED":
            return f"the Triton server at {self._server} did not answer within {self._timeout_s:g} s"
        return f"the Triton server at {self._server} refused the request ({message})"


def _code(error: Exception) -> str:
    return str(getattr(error, "status", lambda: "")()).removeprefix("StatusCode.")


def _is_passing(error: Exception) -> bool:
    return _code(error) in _PASSING
