"""The command line: one table of verbs. `embervlm <verb>` and scripts/*.py call the same functions."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rich.markup import escape
from rich.table import Table

from embervlm.console import console, errors
from embervlm.errors import UserError
from embervlm.options import Flag, did_you_mean, flags_of, parse

# What a person can mend without knowing the program: rights, space, a read-only disk, a place where no file can be.
_MENDABLE = {errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_NO_PLACE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}  # told where the file has a name


@dataclass(frozen=True)
class Verb:
    """Where a command lives. Both parts are imported when they are used: `--help` loads no torch."""

    settings: str  # "module:class" below embervlm; the first line of its docstring is the verb's help
    run: str  # "module:function" that takes the settings; a whole number that it returns is the exit code

    def load_settings(self) -> type:
        return _load(self.settings)

    def load_run(self) -> Callable[[Any], Any]:
        return _load(self.run)


VERBS = {
    "demo": Verb("settings:DemoSettings", "demo:run_demo"),
    "toy": Verb("settings:ToySettings", "data.toyworld:run_toy"),
    "prepare": Verb("data.settings:PrepareSettings", "data.prepare:run_prepare"),
    "train": Verb("settings:TrainSettings", "train.run:run_train"),
    "cache build": Verb("settings:CacheSettings", "teachers.cache:run_cache"),
    "cache info": Verb("settings:CacheInfoSettings", "teachers.manage:run_info"),
    "cache verify": Verb("settings:CacheVerifySettings", "teachers.manage:run_verify_cache"),
    "cache import": Verb("settings:CacheImportSettings", "teachers.cache_import:run_import"),
    "cache merge": Verb("settings:CacheMergeSettings", "teachers.manage:run_merge"),
    "answer": Verb("settings:AnswerSettings", "answering.run:run_answer"),
    "evaluate": Verb("settings:EvaluateSettings", "evaluate.command:run_evaluate"),
    "compare": Verb("settings:CompareSettings", "evaluate.compare:run_compare"),
    "report": Verb("settings:ReportSettings", "evaluate.pages.report:run_report"),
    "infer": Verb("settings:InferenceSettings", "model.inference:run_inference"),
    "download-teacher": Verb("settings:DownloadSettings", "teachers.download:run_download"),
    "test-teacher": Verb("settings:TeacherCheckSettings", "teachers.check:run_test_teacher"),
    "verify": Verb("settings:VerifySettings", "inspection.verify:run_verify"),
    "inspect": Verb("settings:InspectSettings", "inspection.batches:run_inspect"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0, 2 for what a person can mend, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        return _run([word for word in words if word != "--debug"])
    except UserError as error:
        return _complain(str(error), debug)
    except OSError as error:
        if error.errno not in _MENDABLE and not (error.errno in _NO_PLACE and error.filename):
            raise
        return _complain(f"{error.filename or 'The disk'}: {error.strerror}.", debug)
    except KeyboardInterrupt:
        errors.print("\nStopped. What was already written is whole.")
        return 130


def _run(words: list[str]) -> int:
    name, *rest = words or ["--help"]
    if name in ("-h", "--help", "help"):
        print_verbs()
        return 0
    if rest and f"{name} {rest[0]}" in VERBS:
        name, rest = f"{name} {rest[0]}", rest[1:]
    elif inner := [verb for verb in VERBS if verb.startswith(f"{name} ")]:
        raise UserError(f"embervlm {name} needs one more word: {', '.join(inner)}.")
    if name not in VERBS:
        raise UserError(f"There is no command {name!r}{did_you_mean(name, list(VERBS))} embervlm --help lists them.")
    verb = VERBS[name]
    if "-h" in rest or "--help" in rest:
        print_flags(name, verb.load_settings())
        return 0
    settings: Any = parse(verb.load_settings(), rest)
    run = verb.load_run()
    _quiet_bars()
    code = run(settings)
    return code if isinstance(code, int) else 0


def _quiet_bars() -> None:
    """transformers draws a bar for each model it loads; only downloads deserve one."""
    if transformers := sys.modules.get("transformers"):
        transformers.utils.logging.disable_progress_bar()  # switches the hub's bars off as well
        sys.modules["huggingface_hub"].utils.enable_progress_bars()


def _complain(sentence: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    errors.print(f"[bold red]error:[/] {escape(sentence)}", soft_wrap=True)
    return 2


def print_verbs() -> None:
    """What `embervlm --help` shows."""
    console.print("\n[bold]embervlm[/]: a 37M vision-language student, instruction-tuned with a large teacher\n")
    table = Table.grid(padding=(0, 3, 0, 1))
    for name, verb in VERBS.items():
        table.add_row(f"[bold green]{name}[/]", escape(_first_line(verb.load_settings())))
    console.print(table)
    console.print("\n [dim]embervlm VERB --help shows the flags of one of them. --debug shows tracebacks.[/]\n")


def print_flags(name: str, settings: type) -> None:
    """What `embervlm VERB --help` shows: every flag with its default and its help, in groups."""
    all_flags = flags_of(settings).values()
    words = "".join(f" {flag.words}" for flag in all_flags if flag.words)
    console.print(f"\n[bold]embervlm {name}[/]{escape(words)} [dim]\\[flags][/]   {escape(_first_line(settings))}")
    groups: dict[str, list[Flag]] = {}
    for flag in all_flags:
        groups.setdefault(flag.group, []).append(flag)
    for group, flags in groups.items():
        console.print(f"\n[bold]{group}[/]")
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        for flag in flags:
            table.add_row(f"  [green]--{flag.name}[/]", f"[cyan]{escape(_default(flag))}[/]", escape(_help(flag)))
        console.print(table)
    console.print("\n[dim]--no_NAME turns a flag off; --debug shows tracebacks.[/]\n")


def _default(flag: Flag) -> str:
    if flag.shown is not None:
        return flag.shown
    if flag.type is bool:
        return "on" if flag.default else "off"
    if flag.default is None:
        return "none"
    return ",".join(str(item) for item in flag.default) if flag.many else str(flag.default)


def _help(flag: Flag) -> str:
    return flag.help + (f" ({', '.join(flag.choices)})" if flag.choices else "")


def _first_line(settings: type) -> str:
    return (settings.__doc__ or "").strip().partition("\n")[0]


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f"embervlm.{module}"), name)


if __name__ == "__main__":
    sys.exit(main())
