"""The command `facestream`: registers every command and turns errors into exit codes."""

from __future__ import annotations

import os
import sys

import typer

from .. import FacestreamError, __version__
from . import (
    anchors,
    bench,
    demo,
    doctor,
    enroll,
    evaluate,
    export,
    gallery,
    keys,
    models,
    node,
    run,
    search,
    sightings,
    simulate,
    thresholds,
    train,
    watch,
)

app = typer.Typer(
    help="Real-time face recognition for video: cameras in, identity events out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)

app.command()(demo.demo)
app.command()(run.run)
app.command()(node.node)
app.command()(enroll.enroll)
app.add_typer(gallery.app, name="gallery")
app.command()(search.search)
app.add_typer(sightings.app, name="sightings")
app.add_typer(keys.app, name="keys")
app.command()(watch.watch)
app.add_typer(thresholds.app, name="thresholds")
app.add_typer(models.app, name="models")
app.add_typer(anchors.app, name="anchors")
app.add_typer(train.app, name="train")
app.command()(doctor.doctor)
app.add_typer(simulate.app, name="simulate")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(bench.app, name="bench")
app.add_typer(export.app, name="export")

INTERRUPTED = 130


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        typer.echo(f"facestream {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Real-time face recognition for video: cameras in, identity events out."""


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 2 to 10 as the exception tree says, 1 for what the system refuses (a full
    disk under the output, a file without rights), 130 interrupted with everything decided flushed.
    The message is one line on stderr.
    """
    # OpenCV warns of a damaged photo on stderr; the refusal says it already.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    try:
        code = app(prog_name="facestream", standalone_mode=False)
    except FacestreamError as error:
        print(f"facestream: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("facestream: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output (head, less) went away: not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"facestream: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(FacestreamError.exit_code)
    except Exception as error:
        # With standalone_mode off, usage errors arrive as exceptions of click, which typer carries.
        tell = getattr(error, "format_message", None)
        if tell is None:
            raise
        if message := " ".join(tell().split()):  # empty where the help was printed instead
            command = getattr(getattr(error, "ctx", None), "command_path", "facestream")
            print(f"facestream: {message} (see `{command} --help`)", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 2))
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
