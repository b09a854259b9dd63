"""`polypstream doctor`: what this machine has, what is missing, and how to install it."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("doctor")(doctor)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False) -> None:
    """List what this machine has for running the software, what is missing, and the command that installs it."""
    from polypstream.realtime.doctor import findings

    rows = findings()
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = Table(show_header=False)
    for row in rows:
        if row.found is not None:
            table.add_row("[green]✓[/green]", row.what, escape(row.found))
        else:
            table.add_row("[yellow]✗[/yellow]", row.what, f"missing; {escape(row.mend or '')}")
    Console().print(table)
