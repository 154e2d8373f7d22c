"""The command ``xent``: one module per command."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Annotated

import typer

__all__ = ["app", "main"]

app = typer.Typer(
    name="xent",
    help="Benchmark cross-entropy losses and judge them against certified truth.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _common(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"xent {metadata.version('cross-entropy-harness')}")
        raise typer.Exit


for _command in ("accuracy", "listing", "report", "truth"):
    importlib.import_module(f"harness.cli.{_command}").register(app)


def main() -> None:
    """Run the command and exit with its status."""
    app()
