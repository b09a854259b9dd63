"""The `polypstream` command: one module per subcommand, and the one place where an error becomes an exit code.

Exit codes: 0 done, 1 something failed and one line on standard error says what, 2 usage, 130 interrupted.
"""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from polypstream import __version__
from polypstream.cli import annotate, build, doctor, evaluate, export, live, train
from polypstream.errors import PolypstreamError

app = typer.Typer(
    name="polypstream",
    help="Outline every polyp in colonoscopy video. Research software, not a medical device.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (annotate, live, train, evaluate, export, build, doctor):
    command.register(app)


@app.callback(invoke_without_command=True)
def _root(
    show_version: bool = typer.Option(False, "--version", is_eager=True, help="Print the version and leave."),
) -> None:
    if show_version:
        typer.echo(f"polypstream {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; errors raised on purpose become one line and exit code 1."""
    try:
        app()
    except PolypstreamError as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
