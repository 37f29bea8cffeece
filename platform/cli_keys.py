"""'biomedray keys': add, remove and list the API keys of a service; running services notice by themselves."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from biomedray.arguments import console, errors
from biomedray.errors import UserError


def keys(
    file: Annotated[Path, typer.Argument(help="The file that 'biomedray serve --keys' is given; --add makes it.")],
    add: Annotated[str | None, typer.Option(metavar="LABEL", help="Make a key and show it, this once.")] = None,
    remove: Annotated[str | None, typer.Option(metavar="LABEL", help="Take a key out.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show labels, rates and last days.")] = False,
    rate: Annotated[float | None, typer.Option(help="With --add: items a second.")] = None,
    expires: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="With --add: the last day, UTC.")] = None,
) -> None:
    """API keys of a service: only their hashes are stored; a change is in force within a second."""
    from biomedray.serve.keys import add_key, remove_key

    if (add is not None) + (remove is not None) + list_ != 1:
        raise UserError("say one of --add LABEL, --remove LABEL and --list")
    if add is None and (rate is not None or expires is not None):
        raise UserError("--rate and --expires go with --add; to change a key, remove it and add another")
    if add is not None:
        secret = add_key(file, add, rate, expires.date() if expires else None)
        errors.print(f"{file}: a key for {add}; it is shown this once:", highlight=False, markup=False)
        console.print(secret, highlight=False, markup=False, soft_wrap=True)
    elif remove is not None:
        remove_key(file, remove)
        errors.print(f"{file}: {remove} is out", highlight=False, markup=False)
    else:
        console.print(_table(file))


def _table(file: Path) -> Table:
    from biomedray.serve.keys import read_keys

    table = Table("label", "items a second", "good until", "SHA-256")
    for key in read_keys(file):
        table.add_row(key.label, f"{key.rate:g}" if key.rate else "", str(key.expires or ""), f"{key.sha256[:12]}...")
    return table
