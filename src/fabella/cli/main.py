"""The ``fabella`` command: find a subcommand by its file name, run it, and map errors to exit codes.

Exit codes: 0, 2 usage and config, 3 data, 4 storage, 5 numerics, 6 lost process, 7 out of memory,
130 interrupted.

Only the chosen command is imported; ``fabella --help`` reads the docstrings of the files and loads no engine.
"""

import ast
import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperGroup

import fabella
from fabella.cli.help import OVERRIDES, Command
from fabella.cli.output import print_any_text, print_status
from fabella.errors import FabellaError, StorageError, UsageError
from fabella.storage import escaped

NOT_COMMANDS = {
    "__init__", "help", "main", "output", "run_options", "suggestions", "text_options", "train_result",
}  # fmt: skip
HELP = """Train small language models from scratch.

Examples:
  fabella quickstart                        train a story model in two minutes
  fabella train my-stories.txt              train on your own text
  fabella generate runs/my-stories "Once"   generate text"""


def command_files() -> dict[str, Path]:
    """Return command name → file."""
    files = Path(__file__).parent.glob("*.py")
    return {path.stem.replace("_", "-"): path for path in sorted(files) if path.stem not in NOT_COMMANDS}


def import_module(name: str) -> ModuleType:
    """Import a module without garbage collections, a tenth of the time to start, and exempt it from later ones."""
    if name in sys.modules or not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        module = importlib.import_module(name)
        gc.freeze()
        return module
    finally:
        gc.enable()


class Commands(TyperGroup):
    """Command group whose commands are the files of this package."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(command_files())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in command_files():
            return None
        module = import_module(f"fabella.cli.{cmd_name.replace('-', '_')}")
        return _click_command(module, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args and args[0] not in command_files() and not args[0].startswith("-"):
            raise UsageError(
                f"Unknown command '{args[0]}'.", hint=_suggestions().suggest_command(args[0], command_files())
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command. Turn Ctrl-C into Abort, which ``run_with_error_codes`` reports."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands without importing them. Each line is the first of a docstring."""
        formatter.write(f"Usage: fabella [--version] [--debug] COMMAND …\n\n{HELP}\n\nCommands:\n")
        for name, path in command_files().items():
            formatter.write(f"  {name:<12} {_summary(path)}\n")
        formatter.write("\nOptions:\n  --version    Show the version.\n  --debug      Show tracebacks of errors.\n")
        formatter.write("  --help       Show this text; after a command, its own.\n")


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n", 1)[0]


def _click_command(module: Any, name: str) -> Any:
    """Return the module's ``app`` (a group), or its ``command`` with the module's docstring as help."""
    if hasattr(module, "app"):
        return typer.main.get_command(module.app)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    # "\b" preserves the line breaks of the examples.
    lines = (module.__doc__ or "").strip().replace("\n\n", "\n\n\b\n")
    settings = {"help_option_names": ["-h", "--help"]}
    app.command(name, cls=Command, help=lines, context_settings=settings)(module.command)
    return typer.main.get_command(app)


app = typer.Typer(cls=Commands, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def _options(ctx: typer.Context, version: bool = False, debug: bool = False) -> None:  # pyright: ignore[reportUnusedFunction]
    if version:
        print(f"fabella {fabella.__version__}")
    elif ctx.invoked_subcommand is None:
        print(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    install_signal_handlers()
    print_any_text()
    sys.exit(run(words, debug=debug))


def install_signal_handlers() -> None:
    """Handle SIGTERM like Ctrl-C and ignore SIGUSR1, outside of a training, which has its own handlers.

    A rank of a process group keeps the default SIGTERM: it may wait for another rank in native code, where Python
    handles no signals.
    """
    if hasattr(signal, "SIGUSR1"):  # not on Windows
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if not os.environ.get("RANK"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def run(arguments: Sequence[str], *, debug: bool = False) -> int:
    """Run a command line in this process and return its exit code. Errors are printed without traceback."""
    command = typer.main.get_command(app)
    return run_with_error_codes(
        lambda: command.main(list(arguments), prog_name="fabella", standalone_mode=False), debug=debug
    )


def _suggestions() -> Any:
    """Return the module of suggestions, loaded only after an error: it imports all config sections."""
    return importlib.import_module("fabella.cli.suggestions")


def _explain(error: Any) -> str:
    """Return the message of a wrong command line, with what to do next."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "fabella"
    option = getattr(error, "option_name", "")
    if not option or not context:
        problem = error.format_message().rstrip(". ").replace(": Input should", ": input should")
        return f"{problem}. {path} --help shows how to use it."
    params = context.command.params
    options = [
        name for param in params if param.param_type_name == "option" for name in (*param.opts, *param.secondary_opts)
    ]
    takes_settings = any(param.name == OVERRIDES for param in params)
    command = path.removeprefix("fabella").strip()
    hint = _suggestions().suggest_option(option, options, command, takes_settings=takes_settings)
    return f"Unknown option {option}. {hint}"


def run_with_error_codes(work: Callable[[], object], *, debug: bool = False) -> int:
    """Call ``work``. Return its exit code, or print its error and return that of the error."""
    try:
        code = work()
        return code if isinstance(code, int) else 0
    except FabellaError as error:
        if debug:
            traceback.print_exc()
        print_status(f"fabella: {error}")
        return error.exit_code
    except OSError as error:
        if error.filename is None:  # not about a path, e.g. a closed pipe
            raise
        if debug:
            traceback.print_exc()
        path = escaped(os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "a file", 500)
        print_status(f"fabella: Cannot use {path}: {(error.strerror or str(error)).lower()}. Give another path.")
        return StorageError.exit_code
    except typer.TyperException as error:
        print_status(f"fabella: {_explain(error)}")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print_status("\nfabella: interrupted.")
        return 130
