"""Command-line parsers: every mistake of the user becomes one line that names the right option, and exit code 2.

`call(function, argv, prog)` runs an own verb, whose options are the function's parameters; `sciguide.cli.fit_parser`
has the parser of the verbs that Lightning runs. Configs are jsonargparse's YAML, which may name only what stands under
ALLOWED, or what `--allow-import NAME` adds for the rest of the process.
"""

import os
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator
from difflib import SequenceMatcher
from typing import Any, NoReturn, get_args, get_origin

from jsonargparse import ActionYesNo, ArgumentParser, auto_cli, set_parsing_settings

from sciguide.cli import meant

ALLOWED = ["sciguide", "lightning.pytorch", "torch.nn", "torch.optim"]


_trusted: list[str] = []  # what --allow-import named in this process


class UsageError(SystemExit):
    """A wrong command line or config. It derives from SystemExit, so that no `except Exception` on the way swallows it.

    `message`: one line; `hint`: what to do; `key`: the offending option, dotted, where there is one.
    """

    def __init__(self, message: str, hint: str, key: str | None = None):
        super().__init__(2)
        self.message, self.hint, self.key, self.located = message, hint, key, False


class OneLine:
    """Mixin for jsonargparse parsers: raises UsageError with the nearest right key and the config file at fault."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        prog = parser.prog.replace(" [options]", "")
        said = explain(message, parser._option_string_actions, f"see `{prog} --help`")
        if not self.exit_on_error:  # a parser inside another one, for the arguments of a class
            raise ArgumentError(None, said.message) from ex
        raise said from ex

    def parse_args(self, args: list[str] | None = None, *rest: Any, **kwargs: Any) -> Any:
        try:
            return super().parse_args(args, *rest, **kwargs)
        except UsageError as wrong:
            words = sys.argv[1:] if args is None else args
            typed = any(word.startswith(f"--{wrong.key}") for word in words)
            file = None if typed else locate(wrong.key, config_files(words))
            if file and not wrong.located:
                wrong.message, wrong.located = f"{file}: {wrong.message}", True
            raise


class Parser(OneLine, ArgumentParser):
    """Parser of the own verbs: `--dry-run` and not `--dry_run true`, files as plain words, `-c` for a config."""

    def add_argument(self, *names: str, **kwargs: Any) -> Any:
        kind = kwargs.get("type", getattr(kwargs.get("action"), "_typehint", None))
        if names and not names[0].startswith("-") and get_origin(kind) is list:
            kwargs = {"help": kwargs.get("help"), "type": get_args(kind)[0], "nargs": "+"}
        elif names == ("--config",):
            names = ("-c", "--config")
        elif names and names != ("--print_config",):
            names = tuple(name.replace("_", "-") if name.startswith("--") else name for name in names)
        if kind is bool and kwargs.get("default") is False:
            kwargs = {k: v for k, v in kwargs.items() if k != "type"} | {"action": ActionYesNo(no_prefix=None)}
        return super().add_argument(*names, **kwargs)


def call(function: Callable[..., int | None], argv: list[str], prog: str) -> int:
    """Runs `function` with its parameters taken from `argv`; its docstring is the help.

    Parameters without a default are positional words, a `list[...]` among them takes several. Returns the function's
    exit code (None is 0). Raises UsageError.
    """
    argv = restrict_imports(argv)
    return auto_cli(function, args=argv, prog=prog, parser_class=Parser, allow_abbrev=False) or 0


def restrict_imports(argv: list[str]) -> list[str]:
    """Forbids configs to import anything but ALLOWED and each `--allow-import NAME`; returns `argv` without those."""
    rest, names = [], []
    words = iter(argv)
    for word in words:
        option, _, value = word.partition("=")
        if option != "--allow-import":
            rest.append(word)
            continue
        name = value or next(words, "")
        if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name):
            raise UsageError(f"--allow-import needs a module's name, not {name!r}", "as in --allow-import my_equations")
        names.append(name)
    _trusted.extend(names)
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that a file here never hides an installed package
    set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=ALLOWED + names, instantiate_subclass_spec_in_any=False
    )
    return rest


def check_import(name: str) -> None:
    """Raises UsageError for `module:Class` whose module a config may not import."""
    module = name.partition(":")[0]
    if not any(module == a or module.startswith(f"{a}.") for a in [*ALLOWED, *_trusted]):
        raise UsageError(f"{name}: {module} may not be imported", f"--allow-import {module}, if you trust it")


def explain(message: str, options: Iterable[str], hint: str) -> UsageError:
    """UsageError for a message of argparse or jsonargparse; `options`: the option strings that the parser knows."""
    line = re.sub(r"<class '([\w.]+)'>", r"\1", " ".join(message.split())).replace("NoneType", "None")
    line = line.replace(' in "<unicode string>",', "")
    if found := re.search(r"unrecognized arguments: (\S+)", line):
        if not found[1].startswith("-"):
            return UsageError(f"one word too many: {found[1]}", hint)
        return unknown(found[1].partition("=")[0], options, hint)
    if found := re.search(r"(?:Group '([^']+)' does not accept option|accept option|Option) '([^']+)'", line):
        return unknown(".".join(filter(None, found.groups())), options, hint)
    if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)$", line):
        choices = re.findall(r"[\w.-]+", found[2])
        return UsageError(f"no such choice: {found[1]}{meant(found[1], choices)}", hint)
    if found := re.match(r'Parser key "([^"]+)": (.*)', line):
        key, text = found.groups()
        if denied := re.search(r"Importing '([^']+)' is not allowed", text):
            name = denied[1]
            return UsageError(f"{key}: {name} may not be imported", f"--allow-import {name}, if you trust it", key)
        text = re.sub(
            r"Does not .* Subtypes: \[(.*?)\] Errors: .* Given value: (.*)", r"expected one of \1. Got value: \2", text
        )
        text = text.replace("Expected a ", "expected ").replace(". Got value:", ", got")
        return UsageError(f"{key}: {text}", hint, key)
    return UsageError(line, hint)


def unknown(key: str, options: Iterable[str], hint: str) -> UsageError:
    """UsageError for an option (`--name`) or config key (`name`) that does not exist, with the one most like it,
    as a whole or in its last dotted part: `max_epoch` finds `trainer.max_epochs`."""
    dashes, word = ("--", key.lstrip("-")) if key.startswith("-") else ("", key)
    names = [o[2:] for o in options if o.startswith("--") and not o.startswith("--print")]
    if not dashes:
        names = [name.replace("-", "_") for name in names]

    def likeness(name: str) -> tuple[float, float]:
        whole = SequenceMatcher(None, word, name).ratio()
        return max(whole, SequenceMatcher(None, word.rpartition(".")[2], name.rpartition(".")[2]).ratio()), whole

    best = max(names, key=likeness, default="")
    text = f"; did you mean {dashes}{best}?" if likeness(best)[0] >= 0.6 else ""
    return UsageError(f"no such {'option' if dashes else 'key'}: {key}{text}", hint, None if dashes else key)


def config_files(argv: list[str]) -> list[str]:
    """The config files that a command line names with -c or --config."""
    pairs = zip(argv, [*argv, ""][1:], strict=True)
    return [
        word.partition("=")[2] or after
        for word, after in pairs
        if word in ("-c", "--config") or word.startswith("--config=")
    ]


def locate(key: str | None, files: list[str]) -> str | None:
    """The first file that holds the dotted `key`, or that is no YAML."""
    import yaml

    for file in files:
        try:
            with open(file, encoding="utf-8") as stream:
                held = yaml.safe_load(stream)
        except OSError:
            continue
        except (yaml.YAMLError, UnicodeDecodeError):
            return file
        if key in dotted(held):
            return file
    return None


def dotted(held: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of nested mappings."""
    for name, value in held.items() if isinstance(held, dict) else ():
        yield f"{prefix}{name}"
        yield from dotted(value, f"{prefix}{name}.")
