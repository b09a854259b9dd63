"""The `polypstream` command: one module per subcommand; `main` turns errors into exit codes.

Exit codes: 0 success, 1 failure, with one line on standard error, 2 wrong usage, 130 interrupted by Ctrl-C,
143 terminated by SIGTERM, 129 by SIGHUP.
"""

import sys

import typer

from polypstream import __version__
from polypstream.cli import (
    annotate,
    build,
    convert,
    doctor,
    evaluate,
    export,
    import_labels,
    live,
    push,
    review,
    train,
)
from polypstream.cli.options import Command, Group
from polypstream.cli.terminal import interrupted_by_signals, print_any_character, print_error
from polypstream.errors import PolypstreamError

app = typer.Typer(
    name="polypstream",
    cls=Group,
    help="Outline every polyp in colonoscopy video. Research software, not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for module in (annotate, convert, push, import_labels, live, review, train, evaluate, export, build, doctor):
    module.register(app)
for command in app.registered_commands:
    command.cls = Command


@app.callback(invoke_without_command=True)
def _root(
    show_version: bool = typer.Option(False, "--version", is_eager=True, help="Print the version and exit."),
) -> None:
    if show_version:
        typer.echo(f"polypstream {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; a `PolypstreamError` becomes one line and exit code 1."""
    print_any_character()
    with interrupted_by_signals() as signals:
        try:
            app()
        except PolypstreamError as error:
            print_error(error)
            sys.exit(1)
        except (KeyboardInterrupt, SystemExit) as ending:
            if signals:
                sys.exit(128 + signals[0])
            raise ending if isinstance(ending, SystemExit) else SystemExit(130) from None
