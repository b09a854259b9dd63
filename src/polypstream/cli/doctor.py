"""`polypstream doctor`: checks what works on this machine, and how to fix the rest."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from polypstream.cli.options import JsonOption

if TYPE_CHECKING:
    from polypstream.realtime.doctor import Check


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("doctor")(doctor)


def doctor(as_json: JsonOption = False) -> None:
    """Check what works on this machine, and show how to fix the rest.

    Runs the model in every inference backend and encodes with every encoder; looks for an NVIDIA GPU, the shipped
    models, a display, capture devices, the GStreamer element polypoverlay, and the optional parts of the package.
    """
    from polypstream.realtime.doctor import checks

    if as_json:
        print(json.dumps([asdict(check) for check in checks()], indent=2))
        return
    with Console(stderr=True).status("checking"):
        found = list(checks())
    console = Console()
    for group in dict.fromkeys(check.group for check in found):
        console.print(f"[bold]{escape(group)}[/bold]")
        console.print(_table([check for check in found if check.group == group]))


def _table(checks: "list[Check]") -> Table:
    table = Table.grid(padding=(0, 1))
    for width in (2, 25, None):
        table.add_column(width=width, overflow="fold")
    for check in checks:
        mark = "[green]✓[/green]" if check.works else "[yellow]✗[/yellow]"
        fix = f"\n→ {check.fix}" if check.fix else ""
        table.add_row(f" {mark}", escape(check.name), escape(check.detail + fix))
    return table
