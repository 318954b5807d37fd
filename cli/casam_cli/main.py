"""The `casam` program: the commands, and how errors reach a person."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, cast

import typer

from casam_cache import __version__
from casam_cache.errors import CasamError, OptionError
from casam_cli import console
from casam_cli.bench import bench
from casam_cli.data import data_app
from casam_cli.demo import demo
from casam_cli.doctor import doctor
from casam_cli.encode import encode
from casam_cli.evaluate import evaluate
from casam_cli.export import export
from casam_cli.fit import fit
from casam_cli.freed_memory import keep_freed_memory
from casam_cli.models import models
from casam_cli.predict import predict
from casam_cli.report import report
from casam_cli.runs import runs_app
from casam_cli.search import search
from casam_cli.store import store_app
from casam_cli.trust import trust
from casam_cli.view import view

app = typer.Typer(
    name="casam",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        console.show_result(f"casam-cache {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Encode medical images with a frozen SAM once; train and evaluate adapters from the cache."""


for command in (
    encode,
    fit,
    evaluate,
    bench,
    search,
    report,
    predict,
    view,
    export,
    models,
    demo,
    doctor,
    trust,
):
    app.command()(command)
app.add_typer(data_app, name="data")
app.add_typer(store_app, name="store")
app.add_typer(runs_app, name="runs")


# Typer brings its own copy of click in some versions: the base of all usage errors, whichever click it is of.
_UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])
INTERRUPTED = 130
_REFUSALS = {
    errno.ENOSPC: "the disk is full: make room, or choose another folder",
    errno.EDQUOT: "the disk quota is used up: make room, or choose another folder",
    errno.EFBIG: "the file may not grow so large here: choose another folder (ulimit -f shows the limit)",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "no permission: choose another folder, or change its permissions",
    errno.EPERM: "no permission: choose another folder, or change its permissions",
    errno.ENOTDIR: "a file is where a folder should be: choose another folder",
    errno.EEXIST: "a file is where a folder should be: choose another folder",
}


def run() -> None:
    """Entry point: a user's error is one message and exit code 1 (2 for a wrong command line), never a traceback."""
    keep_freed_memory()
    try:
        code = app(standalone_mode=False)
    except CasamError as error:
        console.show_error(error)
        code = 1
    except _UsageError as error:
        code = _show_usage_error(error)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (`casam ... | head`): nothing more to say, also not at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except MemoryError:
        console.show_error(
            CasamError("not enough memory", "end other programs, or use smaller images or batches")
        )
        code = 1
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        console.show_error(
            CasamError(f"{error.filename or 'cannot write'}: {error.strerror}", _REFUSALS[error.errno])
        )
        code = 1
    if code == INTERRUPTED:  # which is also what Typer makes of Ctrl-C
        console.show_error(CasamError("interrupted", "the same command goes on from here"))
    if code:
        sys.exit(code)


def _show_usage_error(error: Any) -> int:
    """A command line that names no command, or an option that does not exist, lacks its value or is required."""
    context = error.ctx
    if type(error).__name__ == "NoArgsIsHelpError":
        if error.message:  # the help; with rich, Typer printed it when it made the error
            console.show_result(error.message)
        return int(error.exit_code)
    hint = f"{context.command_path if context else 'casam'} --help lists what there is"
    if context and hasattr(context.command, "list_commands"):
        hint = f"available: {', '.join(context.command.list_commands(context))}"
    console.show_error(OptionError(error.format_message(), hint))
    return int(error.exit_code)
