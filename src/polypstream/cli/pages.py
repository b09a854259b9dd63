"""What the commands with a page share: its options, its address on the terminal, and their end by a signal."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from polypstream.cli.options import secret_in

if TYPE_CHECKING:
    from polypstream.realtime.live.viewers.page import Page, PageConfig

console = Console(stderr=True)

ServeOption = Annotated[
    str | None,
    typer.Option(
        "--serve",
        metavar="HOST:PORT",
        help="Serve the page at this address; implies --view page.",
        show_default="127.0.0.1:8765 with --view page",
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        envvar="POLYPSTREAM_TOKEN",
        metavar="TEXT",
        help="Access token of the page: at least 8 letters or digits.",
        show_default="random if the page is served to other machines",
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with the access token; unlike an argument, hidden from other users of the machine.",
    ),
]
ViewTokenFileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File with a token for viewing only.",
        show_default="random",
    ),
]
PublicUrlOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="Address at which a reverse proxy serves the page, such as https://lab.example/scope/."
    ),
]
TlsCertOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Certificate as a PEM file, to serve the page by HTTPS.")
]
TlsKeyOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Private key of the certificate as a PEM file.")
]


def page_config(
    serve: str,
    *,
    token: str | None,
    token_file: Path | None,
    view_token_file: Path | None,
    public_url: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
) -> "PageConfig":
    """The address and access rules of a page, from the options."""
    from polypstream.realtime.live.viewers.page import PageConfig

    if token is not None and token_file is not None:
        raise typer.BadParameter("give --token or --token-file, not both", param_hint="--token-file")
    host, _, port = serve.rpartition(":")
    if not host or not port.isdecimal():
        raise typer.BadParameter(f"'{serve}' is not HOST:PORT, such as 127.0.0.1:8765", param_hint="--serve")
    return PageConfig(
        host=host.strip("[]"),
        port=int(port),
        token=token if token_file is None else secret_in(token_file),
        view_token=None if view_token_file is None else secret_in(view_token_file),
        public_url=public_url,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )


def say_address(page: "Page", config: "PageConfig") -> None:
    """Print where the page is; tokens chosen by the user stay out of the logs."""
    own = config.token
    say(f"the page is at {page.url if own is None else page.url.replace(own, 'YOUR-TOKEN')}")
    if page.view_url is not None:
        own = config.view_token
        address = page.view_url if own is None else page.view_url.replace(own, "YOUR-VIEW-TOKEN")
        say(f"for viewing only: {address}")


@contextmanager
def ended_by_signals(end: Callable[[], object]) -> Iterator[None]:
    """SIGINT and SIGTERM call `end`, which ends the work of the block regularly, so that all files are completed."""

    def ending(number: int, _: FrameType | None) -> None:
        # os.write: the console may be interrupted within a line, and would repeat it
        os.write(sys.stderr.fileno(), f"{signal.Signals(number).name}: ending\n".encode())
        end()

    before = {number: signal.signal(number, ending) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(line: str) -> None:
    """Print a line for the user on standard error."""
    console.print(escape(line), highlight=False, soft_wrap=True)
