"""The `casam` program: the commands, and how errors reach a person."""

from __future__ import annotations

import os
import sys

import typer

from casam_cache.errors import CasamError
from casam_cli import console
from casam_cli.data import data_app
from casam_cli.demo import demo
from casam_cli.doctor import doctor
from casam_cli.encode import encode
from casam_cli.fit import fit
from casam_cli.predict import predict
from casam_cli.store import store_app

app = typer.Typer(
    name="casam",
    help="Encode medical images with a frozen SAM once; train and evaluate adapters from the cache.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (encode, fit, predict, demo, doctor):
    app.command()(command)
app.add_typer(data_app, name="data")
app.add_typer(store_app, name="store")


def run() -> None:
    """Entry point: runs the command line; a user's error is one message and exit code 1, never a traceback."""
    try:
        app()
    except CasamError as error:
        console.show_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        console.show_line("interrupted; the same command goes on from here")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output left (`casam ... | head`): nothing more to say, also not at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
