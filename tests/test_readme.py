"""The README's commands: those in `sh test` and `python test` blocks are run, all others must at least parse."""

import re
import shlex
from pathlib import Path

import pytest

from sciguide.cli import available, main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(kind: str) -> list[list[str]]:
    """The words after `sciguide` of each command in the blocks tagged `sh KIND`."""
    lines = [line for language, tag, text in BLOCKS if (language, tag) == ("sh", kind) for line in text.splitlines()]
    assert all(line.startswith("sciguide ") for line in lines), lines
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.mark.parametrize("words", commands(""), ids=" ".join)
def test_commands_parse(words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for _, name, text in [block for block in BLOCKS if block[0] == "yaml"]:
        Path(name).write_text(text, encoding="utf-8")
    assert words[0] in available()
    assert main([*words, "--print_config"]) == 0  # parses all of it, then stops


def test_examples_run(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    for words in commands("test"):
        assert main(words) == 0, words
    for _, _, text in [block for block in BLOCKS if block[:2] == ("python", "test")]:
        exec(compile(text, "README.md", "exec"), {})
    assert float(capsys.readouterr().out.split()[-1]) < 1e-5


def test_every_command_is_in_a_block_that_is_tested():
    fenced = "".join(text for language, _, text in BLOCKS if language == "sh")
    indented = re.findall(r"^ {4}sciguide .*", README, re.MULTILINE)
    assert fenced and not indented
    assert {(language, tag) for language, tag, _ in BLOCKS if language != "yaml"} <= {
        ("sh", ""),
        ("sh", "test"),
        ("python", "test"),
    }


def test_paths_in_the_table_exist():
    root = Path(__file__).parents[1]
    cells = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    for cell in cells:
        paths = re.findall(r"`([^`]+)`", cell)
        folder = root / "sciguide" if paths[0].startswith("sciguide/") else root
        missing = [p for p in paths if not (folder / p.removeprefix("sciguide/")).exists()]
        assert not missing
