"""`polypstream review`: the review page of a session after its end."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from polypstream.cli.pages import (
    PublicUrlOption,
    TlsCertOption,
    TlsKeyOption,
    TokenFileOption,
    TokenOption,
    ViewTokenFileOption,
    ended_by_signals,
    page_config,
    say,
    say_address,
)


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("review")(review)


def review(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Folder of a session that has ended.", show_default=False),
    ],
    serve: Annotated[
        str, typer.Option("--serve", metavar="HOST:PORT", help="Serve the page at this address.")
    ] = "127.0.0.1:8766",
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    view_token_file: ViewTokenFileOption = None,
    public_url: PublicUrlOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
) -> None:
    """Review the sightings of a session that polypstream live has recorded.

    Serves the same review page as during the session. Every decision is saved in FOLDER at once; Ctrl-C ends the
    review and writes report.html again. Folders of interrupted sessions are shown with what they contain.
    """
    from polypstream.realtime.live.review import SessionReview
    from polypstream.realtime.live.viewers.page import Page
    from polypstream.realtime.live.viewers.viewer import Commands

    config = page_config(
        serve,
        token=token,
        token_file=token_file,
        view_token_file=view_token_file,
        public_url=public_url,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    commands = Commands()
    with SessionReview(folder, on_notice=say) as session:
        facts = session.session.facts
        with (
            Page(
                replace(config, label=facts.label),
                commands,
                source=facts.source,
                record=lambda: session.record,
                on_notice=say,
                home="review.html",
                notice=lambda: session.notice,
            ) as page,
            ended_by_signals(commands.close),
        ):
            for line in facts.missing:
                say(f"note: {line}")
            say_address(page, config)
            say("Ctrl-C ends the review and writes the report")
            session.run(commands)
        say(session.finish())
