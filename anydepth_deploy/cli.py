"""The command ``anydepth-deploy``: the list of its commands, and errors as exit statuses.

A command lives in a module of its own, which is imported when the command is used.
"""

from __future__ import annotations

import importlib
import math
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from anydepth_deploy.errors import (
    AnyDepthError,
    CheckFailedError,
    MissingExtraError,
    UsageError,
    in_one_line,
    missing_extra,
    shorten,
)
from anydepth_deploy.output.answers import answering, wants_json
from anydepth_deploy.streams import usable_streams
from anydepth_deploy.version import __version__

__all__ = ["COMMANDS", "app", "main"]


class Row(NamedTuple):
    """A command: its name, the module (and in it the function) that is it, a line of help."""

    name: str
    module: str
    help: str


COMMANDS = (
    Row("inspect", "inspect", "Show what a checkpoint or a bundle holds."),
    Row(
        "calibrate",
        "calibrate",
        "Gather ranges of activations over pictures and depths, for INT8; resumes where it "
        "stopped.",
    ),
    Row("export", "export", "Turn a checkpoint into a bundle; makes only what is missing."),
    Row(
        "build",
        "build",
        "Build TensorRT engines from a bundle's graphs; makes only what is missing.",
    ),
    Row(
        "verify",
        "verify",
        "Compare every artifact with what it should compute, depth by depth; exit 1 on a "
        "difference.",
    ),
    Row("eval", "evaluate", "COCO average precision of the artifact, per depth and precision."),
    Row(
        "bench",
        "bench",
        "Measure latency and throughput per depth; every sample goes into a result file.",
    ),
    Row(
        "sweep",
        "sweep",
        "Find the threads, streams and batch that give most pictures a second on this machine.",
    ),
    Row(
        "report",
        "report",
        "Merge results of several devices and runtimes into a table and pictures, or compare two.",
    ),
    Row(
        "ladder",
        "ladder",
        "Measure which depths are worth having on this device, and write them as the ladder.",
    ),
    Row(
        "bundle",
        "bundle",
        "Change class names, the ladder in use or the name of a bundle, without a new export.",
    ),
    Row(
        "predict",
        "predict",
        "Detect objects at a chosen depth and draw them, in pictures, videos and cameras.",
    ),
    Row(
        "train",
        "train",
        "Train an any-depth detector, from a checkpoint and pictures of yours or from nothing.",
    ),
    Row(
        "norms",
        "norms",
        "Measure the statistics of norms anew, for super and for base; no weight changes.",
    ),
    Row(
        "shapes",
        "shapes",
        "Generate pictures of shapes with COCO annotations (what the tiny detector knows).",
    ),
    Row(
        "triton",
        "triton",
        "Write a model repository for the Triton Inference Server, or check one.",
    ),
    Row("page", "page", "Write a page that runs bundles in the browser, at any depth."),
    Row(
        "doctor",
        "doctor",
        "Show what is on this machine, what works, and what to type for the rest.",
    ),
    Row(
        "demo",
        "demo",
        "Export, verify, evaluate and predict with the trained tiny checkpoint.",
    ),
)
"""In the order in which they are listed; the help is the first line of the function's own."""


ALSO = {"evaluate": "eval", "benchmark": "bench"}
"""Commands by the names of their functions in Python."""

ADDRESS = re.compile(r"(?:--[a-z-]+=)?([a-z][a-z0-9+.-]+://.*)", re.IGNORECASE | re.DOTALL)
"""A word that is an address (https, s3, file), or an option with one."""


BOXES = 80
"""Letters of a terminal from which on options are listed in boxes; they break words in less."""

INTERRUPTED = 130
"""The exit status after Ctrl-C."""


class Command(TyperCommand):
    """A command whose flags are shown without the type of a value, since they take none."""

    def get_params(self, ctx: Any) -> list[Any]:
        found = super().get_params(ctx)
        for item in found:
            if getattr(item, "is_flag", False):
                item.metavar = ""
        return found

    def format_help(self, ctx: Any, formatter: Any) -> None:
        width = shutil.get_terminal_size().columns
        if width >= BOXES:
            super().format_help(ctx, formatter)
        else:
            print("\n".join(self._narrow_help(ctx, width)))

    def _narrow_help(self, ctx: Any, width: int) -> Iterator[str]:
        """Help in lines of whole words."""
        from anydepth_deploy.output.tables import wrapped

        def indented(text: str, by: int) -> Iterator[str]:
            return (" " * by + line for line in wrapped(text, width - by))

        yield from indented(
            " ".join(["Usage:", ctx.command_path, *self.collect_usage_pieces(ctx)]), 1
        )
        for paragraph in (self.help or "").split("\n\n"):
            yield ""
            yield from indented(" ".join(paragraph.split()), 1)
        groups: dict[str, list[tuple[str, str]]] = {}
        for item in self.get_params(ctx):
            told = item.get_help_record(ctx)
            if told is not None:
                usual = "Options" if item.param_type_name == "option" else "Arguments"
                heading = getattr(item, "rich_help_panel", None) or usual
                groups.setdefault(heading, []).append(told)
        for heading, rows in groups.items():
            yield from ("", f"{heading}:")
            for names, told in rows:
                yield from indented(names, 2)
                yield from indented(told, 6)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words, sources = [*args], {*self._sources(ctx, args)}
        if not ctx.resilient_parsing:
            _check_addresses([word for word in words if word not in sources])
        rest = super().parse_args(ctx, args)
        for name, value in ctx.params.items():
            if isinstance(value, float) and math.isnan(value):  # which no range refuses
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} is nan: expected a number, see '{ctx.command_path} -h'")
        return rest

    def _sources(self, ctx: Any, args: list[str]) -> list[str]:
        """The words that may be addresses: those of an argument ``source``, and of ``--cdn``."""
        if not any(item.name in ("source", "cdn") for item in self.params):
            return []
        found, _, _ = self.make_parser(ctx).parse_args([*args])
        cdn = found.get("cdn")
        return [*(found.get("source") or ()), *((cdn, f"--cdn={cdn}") if cdn else ())]


class Commands(TyperGroup):
    """All commands by name and help; the one that is used is imported."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for row in COMMANDS:
            self.commands[row.name] = TyperCommand(row.name, help=row.help)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help())
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        args = [ALSO.get(args[0], args[0]), *args[1:]]
        name, found, rest = super().resolve_command(ctx, args)
        return name, found and _load(args[0]), rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        # Lines that are too long are broken, not cut.
        with formatter.section("Commands"):
            formatter.write_dl([(row.name, row.help) for row in COMMANDS])


def _check_addresses(words: list[str]) -> None:
    """Refuse addresses where files are named: a path would lose one of their slashes, and nobody
    would know the name in the message."""
    for word in words:
        if found := ADDRESS.match(word):
            raise UsageError(
                f"'{shorten([found[1]])}' is an address, and only files and folders of this "
                "machine are read and written: fetch it first, or mount it, and name the file"
            )


def _load(name: str) -> Any:
    (row,) = (row for row in COMMANDS if row.name == name)
    module = importlib.import_module(f"anydepth_deploy.commands.{row.module}")
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(row.name, cls=Command)(getattr(module, row.module))
    return typer.main.get_command(alone)


# What draws help in colours takes longer to import than all else that lists the commands: they are
# listed as plain text.
app = typer.Typer(
    name="anydepth-deploy",
    cls=Commands,
    help="Any-depth object detectors in production: calibrate, export, build, verify, eval, "
    "bench, sweep, ladder, report, predict, triton.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

# What typer raises for bad options has a base class that it does not export, and which moved
# between releases; it is an ancestor of one that it does export.
CommandLineError: Any = next(
    parent for parent in typer.BadParameter.__mro__ if parent.__name__ == "ClickException"
)


def main() -> None:
    """Entry point: errors become one line and an exit status (see :mod:`errors`)."""
    with usable_streams() as ended:
        status = ended(_run())
    sys.exit(status)


def _run() -> int:
    """Run what the command line says; the exit status."""
    debug = "--debug" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    with answering(wanted=wants_json(arguments)) as answer:
        try:
            status = app(arguments, prog_name="anydepth-deploy", standalone_mode=False)
            if status == INTERRUPTED:  # newer releases of typer make a status of it
                raise KeyboardInterrupt
            return status if isinstance(status, int) else 0
        except (KeyboardInterrupt, typer.Abort):
            kind, message, status = "KeyboardInterrupt", "interrupted", INTERRUPTED
        except Exception as error:
            kind, message, status = _told(error)
            if debug:
                answer.fail(kind, message, status)
                raise
        print(f"error: {message}", file=sys.stderr)
        answer.fail(kind, message, status)
        return status


def _told(error: Exception) -> tuple[str, str, int]:
    """Of an error: the class that users know it by, a line for a person, the exit status."""
    kind, message = type(error).__name__, _message(error)
    if message is None:
        line = shorten([" ".join(str(error).split())])
        return kind, f"unexpected {kind}: {line} (a bug; --debug shows where)", 3
    if isinstance(error, CommandLineError):
        kind = UsageError.__name__
    elif isinstance(error, ModuleNotFoundError):
        kind = MissingExtraError.__name__
    return kind, in_one_line(message), 1 if isinstance(error, CheckFailedError) else 2


def _message(error: Exception) -> str | None:
    """One line for a person, or None for what is a bug of ours."""
    if isinstance(error, AnyDepthError | CheckFailedError):
        return str(error)
    if isinstance(error, CommandLineError):
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "anydepth-deploy"
        line = " ".join(_stated(error).split())
        return f"{line.rstrip('.')}{_choices(error)}: see '{where} --help'"
    if isinstance(error, ModuleNotFoundError):
        friendly = missing_extra(error, "this command")
        return None if friendly is None else str(friendly)
    if isinstance(error, OSError | MemoryError):
        return f"{type(error).__name__}: {error}"
    return None


def _stated(error: Any) -> str:
    """What typer says of bad options, with the value that was found where it is left out."""
    message = str(error.format_message()).replace("Value error, ", "")
    problems = getattr(error.__cause__, "errors", None)  # newer releases judge with pydantic
    value = problems()[0].get("input") if problems is not None else None
    if isinstance(value, str) and f"'{value}'" not in message:
        shown = shorten([value[:80]])
        message = message.replace("Invalid value for", f"Invalid value '{shown}' for", 1)
    return message.replace(": Input should", ": it should")


def _choices(error: Any) -> str:
    """What a missing option takes, where that is one of a few words: ``<first|second>``, or
    ``<word>`` where they are too long for that and begin its help."""
    option: Any = getattr(error, "param", None)
    shown = getattr(option, "metavar", None) or ""
    if type(error).__name__ != "MissingParameter":
        return ""
    if shown == "<word>":
        return f". Choose from: {option.help.partition('. ')[0]}"
    words = shown[1:-1].split("|") if re.fullmatch(r"<.+[|].+>", shown) else []
    return f". Choose from: {', '.join(words)}" if words else ""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"anydepth-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (any position).")
    ] = False,
) -> None:
    """Any-depth object detectors in production."""


if __name__ == "__main__":
    main()
