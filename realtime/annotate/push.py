"""Pushes an annotated recording to a server: a task in CVAT with the video, or a project in Label Studio."""

import json
import tempfile
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from polypstream.errors import ConfigError, MissingExtraError, OutputError
from polypstream.realtime.annotate.formats.cvat import label_specification, write_cvat
from polypstream.realtime.annotate.formats.images import check_concealed
from polypstream.realtime.annotate.formats.label_studio import config_of, task_of
from polypstream.realtime.annotate.formats.recording import Recording
from polypstream.realtime.video.container import main_video, open_video
from polypstream.realtime.video.dicom import is_dicom

_CVAT_FORMAT = "CVAT 1.1"
_POLL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """Address and credentials of a server."""

    url: str
    secret: str = field(repr=False)
    """Access token; or a password, if there is a user."""
    user: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"the address is {self.url!r}; it must begin with https:// or http://")
        if not self.secret:
            raise ConfigError("there is no access token; create one in your account on the server")


def push_to_cvat(recording: Recording, video: Path, server: Server) -> tuple[str, list[str]]:
    """Create a task with the video and the annotations (extra `[cvat]`).

    Args:
        recording: The annotated recording.
        video: The video, or its proxy.
        server: Address and credentials.

    Returns:
        Address of the task, and warnings.

    Raises:
        MissingExtraError: cvat-sdk is not installed.
        ConfigError: The records are de-identified, the video is not; or CVAT cannot read it.
        OutputError: The server cannot be reached or refuses something. A task without its annotations may remain.
    """
    check_concealed(recording, video)
    _check_readable(recording, video)
    try:
        from cvat_sdk import Client, models
        from cvat_sdk.core.client import AccessTokenCredentials, Config, PasswordCredentials
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"pushing to CVAT (no module named {error.name!r})", "cvat") from error
    name, password = server.user, server.secret
    credentials = PasswordCredentials(name, password) if name else AccessTokenCredentials(server.secret)
    warnings = []
    try:
        with Client(server.url, config=Config(status_check_period=_POLL_S)) as client:
            client.login(credentials)
            labels = [models.PatchedLabelRequest(**label_specification())]
            task = client.tasks.create(models.TaskWriteRequest(name=recording.name, labels=labels))
            task.upload_data([video])
            task.fetch()
            if task.size != recording.summary.video.frames:
                warnings.append(
                    f"CVAT found {task.size} frames in {video.name}, the records have "
                    f"{recording.summary.video.frames}: polygons may be on the wrong frames; push the proxy instead"
                )
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{recording.name}.xml"
                write_cvat(recording, path)
                task.import_annotations(_CVAT_FORMAT, path)
            return f"{server.url.rstrip('/')}/tasks/{task.id}", warnings
    except Exception as error:  # the SDK raises its own exceptions and those of urllib3 and sockets
        raise _refused(server, error) from error


def push_to_label_studio(
    recording: Recording, video: Path, server: Server, *, video_url: str | None = None
) -> tuple[str, list[str]]:
    """Create a project with one task, whose prediction shows the tracks (extra `[label-studio]`).

    The video itself is not uploaded: Label Studio reads it from its storage.

    Args:
        recording: The annotated recording.
        video: The video, or its proxy; its frame rate is read from it.
        server: Address and access token.
        video_url: Address of the video for Label Studio; None for its name in Label Studio's local storage.

    Returns:
        Address of the project, and warnings.

    Raises:
        MissingExtraError: label-studio-sdk is not installed.
        ConfigError: The video has a variable frame rate or is a DICOM object, which Label Studio does not support.
        SourceError: The video cannot be read.
        OutputError: The server cannot be reached or refuses something.
    """
    try:
        from label_studio_sdk import LabelStudio
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"pushing to Label Studio (no module named {error.name!r})", "label-studio") from error
    _check_readable(recording, video)
    if video.name != recording.summary.video.name:
        recording = replace(recording, proxy=(video.name, _stated_rate(video)))
    elif not recording.is_constant_rate:
        raise ConfigError(
            f"{video.name} has a variable frame rate, which Label Studio does not support; annotate it with a proxy "
            f"and push {recording.name}_proxy.mp4"
        )
    try:
        client = LabelStudio(base_url=server.url, api_key=server.secret)
        project = client.projects.create(title=recording.name, label_config=config_of())
        task = json.loads(json.dumps(task_of(recording, video=video_url)))
        client.projects.import_tasks(project.id, request=[task])
    except Exception as error:  # the SDK raises its own exceptions and those of httpx
        raise _refused(server, error) from error
    return f"{server.url.rstrip('/')}/projects/{project.id}", []


def _check_readable(recording: Recording, video: Path) -> None:
    if video.is_file() and is_dicom(video):
        raise ConfigError(
            f"{video} is a DICOM object, which annotation servers do not read; annotate it with a proxy and push "
            f"{recording.name}_proxy.mp4"
        )


def _stated_rate(video: Path) -> Fraction:
    with open_video(video) as container:
        rate = main_video(container, video).average_rate
    if rate is None:
        raise ConfigError(f"{video} states no frame rate; push the video that was annotated, or its proxy")
    return rate


def _refused(server: Server, error: Exception) -> OutputError:
    body = getattr(error, "body", None)
    reason = " ".join(str(body or error or type(error).__name__).split()).replace(server.secret, "…")[:300]
    status = getattr(error, "status", None) or getattr(error, "status_code", None)
    answered = f"status {status}: {reason}" if status else reason
    return OutputError(f"pushing to {server.url} failed ({answered}); check the address and the access token")
