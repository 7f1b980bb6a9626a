"""The command `sciguide`: its first word is a verb, and the file here of that name runs it with the words that follow.

To add a verb, write `sciguide/cli/<verb>.py` with `run(argv: list[str]) -> int` and a line in VERBS. Nothing heavy is
imported before the verb is known. A mistake of the user becomes one line and a hint on stderr and exit code 2;
`--debug`, anywhere, puts the traceback before them, and ends with the calls of kernels that were made.
"""

import os
import sys
import traceback
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from sciguide.errors import InputError

VERBS = {
    "demo": "a small example from data to report, offline",
    "data": "make a training set, check files, print statistics: data make|check|stats",
    "fit": "train a diffusion model: fit -c CONFIG",
    "tune": "learn the guidance policy on the frozen model of a run",
    "generate": "draw an ensemble from a run",
    "evaluate": "measure an ensemble: residuals, spectra, spread, novelty",
    "report": "one self-contained HTML file with pictures",
    "inspect": "what a file or a run folder holds; --verify checks receipts",
    "bench": "check and time kernels and sampling: bench kernels|sampling",
    "doctor": "what works on this machine, and how to mend what does not",
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 2 for a mistake of the user, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in argv
    try:
        code = dispatch([word for word in argv if word != "--debug"])
        sys.stdout.flush()
        if debug and (backends := sys.modules.get("sciguide.kernels.backends")):
            print(backends.summary(), file=sys.stderr)
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit would fail once more
        return 141
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (SystemExit, InputError, OSError) as error:
        if isinstance(error, SystemExit) and not hasattr(error, "hint"):  # --help, and whatever else exits by itself
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        if debug:
            traceback.print_exc()
        return complain(*describe(error))


def dispatch(argv: list[str]) -> int:
    """Imports and runs the verb that `argv` begins with."""
    verbs = available()
    verb, *rest = argv or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(overview(verbs))
    elif verb == "--version":
        from sciguide import __version__

        print(f"sciguide {__version__}")
    elif verb in verbs:
        return import_module(f"sciguide.cli.{verb}").run(rest) or 0
    else:
        return complain(f"no such verb: {verb}{meant(verb, verbs)}", "the verb comes first; see `sciguide --help`")
    return 0


def available() -> dict[str, str]:
    """The verbs of VERBS that this installation has a file for, with their descriptions."""
    files = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return {verb: text for verb, text in VERBS.items() if verb in files}


def overview(verbs: dict[str, str]) -> str:
    """The help at the top."""
    lines = [f"  {verb:<10}{text}" for verb, text in verbs.items()]
    return "\n".join(
        [
            "usage: sciguide VERB ... [--debug]",
            "",
            "Diffusion models of gridded climate and fluid fields, and ensembles from them that obey the physics.",
            "",
            *lines,
            "",
            "sciguide VERB --help shows a verb's options; --debug adds tracebacks and counts kernel calls; --version.",
        ]
    )


def describe(error: BaseException) -> tuple[str, str]:
    """One line and a hint for what the user can mend."""
    if isinstance(error, SystemExit):
        return error.message, error.hint
    hint = "--debug shows where"
    file = getattr(error, "filename", None)
    if isinstance(error, FileNotFoundError) and file:
        path = Path(os.fsdecode(file))
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        return f"no such file: {path}{meant(path.name, beside)}", hint
    if isinstance(error, PermissionError) and file:
        return f"no permission: {os.fsdecode(file)}", f"check who owns it; {hint}"
    return " ".join(str(error).split()), hint


def meant(word: str, choices: object) -> str:
    """The question appended to a message; empty where nothing comes close."""
    close = get_close_matches(word, list(choices), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def complain(message: str, hint: str) -> int:
    """Prints both to stderr and returns exit code 2."""
    print(f"error: {message}\nhint: {hint}", file=sys.stderr)
    return 2
