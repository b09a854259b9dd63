"""`polypstream push`: uploads a recording and its polyps to an annotation server."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from polypstream.cli.terminal import one_line
from polypstream.errors import ConfigError
from polypstream.realtime.annotate.formats import PushTarget

TOKEN_VARIABLE = "POLYPSTREAM_PUSH_TOKEN"


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("push")(push)


def push(
    target: Annotated[PushTarget, typer.Argument(metavar="TARGET", help="cvat or label-studio.", show_default=False)],
    records: Annotated[
        Path, typer.Argument(metavar="RECORDS", help="_polyps.jsonl file, with its _summary.json next to it.")
    ],
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="The video that was annotated, or its proxy.")],
    url: Annotated[str, typer.Option("--url", metavar="URL", help="Address of the server.")],
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="File with the access token.",
            show_default=f"the environment variable {TOKEN_VARIABLE}",
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="CVAT user; the token is then the user's password."),
    ] = None,
    video_url: Annotated[
        str | None,
        typer.Option(
            "--video-url",
            metavar="URL",
            help="Address of the video for Label Studio.",
            show_default="the video's name in its local storage",
        ),
    ] = None,
) -> None:
    """Push RECORDS to an annotation server, for correction.

    CVAT receives VIDEO and its tracks as a new task. Label Studio receives a new project with one task; it reads the
    video from its own storage. Needs the extra cvat or label-studio.
    """
    from polypstream.realtime.annotate.formats.recording import open_recording
    from polypstream.realtime.annotate.push import Server, push_to_cvat, push_to_label_studio

    server = Server(url=url, secret=_token(token_file), user=user)
    recording = open_recording(records)
    if target is PushTarget.CVAT:
        place, warnings = push_to_cvat(recording, video, server)
    else:
        place, warnings = push_to_label_studio(recording, video, server, video_url=video_url)
    console = Console()
    for warning in warnings:
        console.print(f"[yellow]{one_line(video.name)}:[/yellow] {one_line(warning)}", soft_wrap=True)
    console.print(one_line(place), soft_wrap=True, highlight=False)


def _token(path: Path | None) -> str:
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {path} cannot be read ({error}); check the path") from None
