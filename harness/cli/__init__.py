"""The command ``xent``: one module per command."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from typing import Annotated, Any

import typer

from harness.cli.exits import INTERRUPTED, REFUSED

__all__ = ["app", "main"]

app = typer.Typer(
    name="xent",
    help="Benchmark cross-entropy losses and judge them against certified truth.",
    add_completion=False,
    rich_markup_mode=None,  # plain help: narrower, and the same in a pipe
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"xent {metadata.version('cross-entropy-harness')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(REFUSED)


for _command in ("accuracy", "compare", "compiling", "hunt", "listing", "nightly", "report", "speed", "truth", "vet"):
    importlib.import_module(f"harness.cli.{_command}").register(app)


def main() -> None:
    """Run the command and exit with its status."""
    try:
        status = app(standalone_mode=False, prog_name="xent")
    except typer.Abort:  # interrupted before the command began
        status = INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        print(_usage(error), file=sys.stderr)
        status = REFUSED
    sys.exit(status)


def _usage(error: Any) -> str:
    """One line on a mistake in the command line, as typer's parser reports it."""
    name = error.ctx.command_path if getattr(error, "ctx", None) else "xent"
    return f"{name}: {error.format_message().rstrip('.')}; see `{name} -h`"
