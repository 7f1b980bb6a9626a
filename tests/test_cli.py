"""The command: its help, its one-line errors, which key it suggests, what a config may import, and the first verbs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sciguide import cli, receipts
from sciguide.cli import main, parser
from sciguide.errors import InputError


def draw(
    files: list[str], members: int = 4, dry_run: bool = False, scale: float | None = None, net: dict | None = None
):
    """Draw members.

    Args:
        files: what to read
        members: how many
    """
    print(f"{files} {members} {dry_run} {scale}")


def complaint(run, capsys) -> str:
    """What `run` prints on stderr when it exits with code 2: one line, which is returned, and a hint."""
    assert run() == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["error", "hint"], captured.err
    return lines[0].removeprefix("error: ")


@pytest.fixture
def drawn(monkeypatch):
    """`main(["data", ...])` calls `draw`."""
    monkeypatch.setattr("sciguide.cli.data.run", lambda argv: parser.call(draw, argv, "sciguide draw"))
    return lambda *argv: lambda: main(["data", *argv])


# The command


def test_every_verb_has_a_file_with_run_and_a_line_of_help(capsys):
    for verb in cli.available():
        source = Path(cli.__file__).with_name(f"{verb}.py").read_text(encoding="utf-8")
        assert "def run(argv: list[str]) -> int:" in source, verb
    assert main([]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 40
    for verb, what in cli.available().items():
        assert f"  {verb:<10}{what}\n" in text
    assert not any(verb in text.split() for verb in set(cli.VERBS) - set(cli.available()))


@pytest.mark.parametrize("words", [["data"], ["data", "check"], ["data", "stats"], ["inspect"], ["doctor"]])
def test_help_of_a_verb(words, capsys):
    assert main([*words, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: sciguide {' '.join(words)}")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sciguide 0.")


def test_unknown_verb_and_action(capsys):
    assert "inspct; did you mean inspect?" in complaint(lambda: main(["inspct"]), capsys)
    assert "chekc; did you mean check?" in complaint(lambda: main(["data", "chekc"]), capsys)
    assert "--seed" in complaint(lambda: main(["--seed", "3", "data"]), capsys)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("u in a.nc has no units:\nadd them"), "u in a.nc has no units: add them"),
        (FileNotFoundError(2, "x", "fild.nc"), "no such file: fild.nc; did you mean field.nc?"),
        (PermissionError(13, "x", "a.nc"), "no permission: a.nc"),
        (OSError(28, "No space left on device", "a.nc"), "[Errno 28] No space left on device: 'a.nc'"),
    ],
)
def test_what_the_user_can_mend_is_one_line(error, line, monkeypatch, capsys, tmp_path):
    def run(argv):
        assert argv == ["-x"]
        raise error

    monkeypatch.chdir(tmp_path)
    (tmp_path / "field.nc").touch()
    monkeypatch.setattr("sciguide.cli.doctor.run", run)
    assert complaint(lambda: main(["doctor", "-x"]), capsys) == line
    assert main(["doctor", "--debug", "-x"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_the_program_and_an_interruption_are_neither(monkeypatch):
    def raises(error):
        def run(argv):
            raise error

        return run

    monkeypatch.setattr("sciguide.cli.doctor.run", raises(ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        main(["doctor"])
    monkeypatch.setattr("sciguide.cli.doctor.run", raises(KeyboardInterrupt()))
    assert main(["doctor"]) == 130


def test_a_closed_pipe_is_silent():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "sciguide"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


# Options and configs of the own verbs


def test_words_flags_and_configs(drawn, capsys, tmp_path):
    config = tmp_path / "draw.yaml"
    config.write_text("members: 7\ndry_run: true\n")
    assert drawn("a", "b", "--members", "3")() == 0
    assert drawn("--dry-run", "a")() == 0
    assert drawn("a", "-c", str(config), "--scale=.5")() == 0
    assert capsys.readouterr().out.splitlines() == [
        "['a', 'b'] 3 False None",
        "['a'] 4 True None",
        "['a'] 7 True 0.5",
    ]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["a", "--membres", "3"], "no such option: --membres; did you mean --members?"),
        (["a", "--member", "3"], "no such option: --member; did you mean --members?"),
        (["a", "--dry_run"], "no such option: --dry_run; did you mean --dry-run?"),
        (["a", "--members", "many"], "members: expected int, got many"),
        (["a", "--scale", "big"], "scale: expected one of float, None, got big"),
        (["a", "--scale", "1", "b"], "one word too many: b"),
        ([], "the following arguments are required: files"),
        (["a", "-c", "none.yaml"], "config: File does not exist"),
    ],
)
def test_mistyped_options(argv, line, drawn, capsys):
    assert line in complaint(drawn(*argv), capsys)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("membres: 3", "draw.yaml: no such key: membres; did you mean members?"),
        ("dry_rum: true", "draw.yaml: no such key: dry_rum; did you mean dry_run?"),
        ("members: many", "draw.yaml: members: expected int, got many"),
        ("members: [3", "draw.yaml: Problems parsing config"),
    ],
)
def test_mistyped_keys_name_the_file(text, line, drawn, capsys, tmp_path):
    config = tmp_path / "draw.yaml"
    config.write_text(text)
    assert line in complaint(drawn("a", "-c", str(config)), capsys)


# The parser of the verbs that Lightning runs


FIT = """
trainer: {max_epochs: 0, logger: false, enable_checkpointing: false, enable_progress_bar: false, accelerator: cpu}
model: {network: {class_path: torch.nn.Linear, init_args: {in_features: 2, out_features: 3}}}
"""


@pytest.fixture
def fit(monkeypatch, tmp_path):
    """`main(["data", ...])` runs LightningCLI in `tmp_path`, where `fit.yaml` is FIT after `str.replace(old, new)`."""
    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.cli import LightningCLI
    from lightning.pytorch.demos.boring_classes import BoringModel

    from sciguide.cli.fit_parser import FitParser

    class Model(BoringModel):
        def __init__(self, network: torch.nn.Module, rate: float = 0.1):
            super().__init__()
            print(f"{type(network).__name__} {rate}")

    def run(argv):
        argv = parser.restrict_imports(argv)
        settings = {"prog": "sciguide fit", "allow_abbrev": False}
        quiet = {"seed_everything_default": 0, "run": False}
        LightningCLI(Model, pl.LightningDataModule, args=argv, parser_class=FitParser, parser_kwargs=settings, **quiet)
        return 0

    monkeypatch.setattr(sys, "argv", ["sciguide"])
    monkeypatch.setattr("sciguide.cli.data.run", run)
    monkeypatch.chdir(tmp_path)

    def prepared(*argv, old="", new=""):
        (tmp_path / "fit.yaml").write_text(FIT.replace(old, new) if old else FIT)
        return lambda: main(["data", "-c", "fit.yaml", *argv])

    return prepared


def test_fit_runs_and_names_the_nearest_key(fit, capsys):
    assert fit("--model.rate", "0.5")() == 0
    assert "Linear 0.5" in capsys.readouterr().out
    for old, new, line in [
        ("max_epochs", "max_epoch", "fit.yaml: no such key: trainer.max_epoch; did you mean trainer.max_epochs?"),
        ("in_features", "in_feature", "no such key: in_feature; did you mean in_features?"),
        ("max_epochs: 0", "max_epochs: few", "fit.yaml: trainer.max_epochs: expected one of int, None, got few"),
        ("torch.nn.Linear", "torch.nn.Liner", "fit.yaml: model.network: "),
    ]:
        assert line in complaint(fit(old=old, new=new), capsys)
    assert complaint(fit("--rate", "3"), capsys) == "no such option: --rate; did you mean --model.rate?"
    assert complaint(fit("--model.rat", "3"), capsys) == "no such option: --model.rat; did you mean --model.rate?"


def test_a_config_may_not_import_what_was_not_allowed(fit, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_network.py").write_text(
        "import torch\nprint('imported')\nclass Mine(torch.nn.Module):\n    pass\n", encoding="utf-8"
    )
    for name in ("os.system", "subprocess.Popen", "torch.hub.load", "my_network.Mine"):
        strange = fit(old="{class_path: torch.nn.Linear, init_args: {in_features: 2, out_features: 3}}", new=name)
        assert f"fit.yaml: model.network: {name} may not be imported" in complaint(strange, capsys)
    assert "my_network" not in sys.modules
    own = {
        "old": "{class_path: torch.nn.Linear, init_args: {in_features: 2, out_features: 3}}",
        "new": "my_network.Mine",
    }
    assert fit("--allow-import", "my_network", **own)() == 0
    assert "Mine 0.1" in capsys.readouterr().out
    assert "needs a module's name" in complaint(fit("--allow-import", "*"), capsys)


# data, inspect, doctor


@pytest.fixture
def file(tmp_path, make_fields):
    """A NetCDF file of 12 days of currents with land."""
    path = tmp_path / "currents.nc"
    make_fields().to_netcdf(path)
    return path


def test_check_tells_what_training_would_make_of_a_file(file, capsys):
    assert main(["data", "check", str(file)]) == 0
    text = capsys.readouterr().out
    assert "sample: time" in text and "y: lat" in text and "x: lon" in text
    assert "12 samples of 6 x 8 points" in text
    assert f"{(6 * 8 - 2 * 3) / 48:.1%}" in text
    assert "only 12 samples" in text


def test_check_finds_problems(tmp_path, make_fields, capsys):
    ds = make_fields(steps=60)
    ds["u"][3, 4, 5] = np.inf
    ds["v"] = ds["v"] * 0 + 2.0
    ds["w"] = ds["u"] * np.nan
    for name in ("v", "w"):
        ds[name].attrs["units"] = "m s-1"
    ds.to_netcdf(tmp_path / "odd.nc")
    assert main(["data", "check", str(tmp_path / "odd.nc")]) == 0
    warnings = [
        line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines() if line.startswith("warning")
    ]
    assert [w.partition(";")[0].partition(":")[0] for w in warnings] == ["u", "u", "v", "w"]
    assert "1 infinite values" in warnings[0] and "1 points are valid in some" in warnings[1]
    assert "constant" in warnings[2] and "no valid value" in warnings[3]


def test_check_refuses_what_cannot_be_read(tmp_path, file, capsys):
    cut = tmp_path / "cut.nc"
    cut.write_bytes(file.read_bytes()[:-2000])
    for name in ("cut.nc", "absent.nc"):
        assert name in complaint(lambda name=name: main(["data", "check", str(tmp_path / name)]), capsys)


def test_stats_against_numpy(file, make_fields, capsys):
    assert main(["data", "stats", str(file)]) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("u "))
    u = make_fields()["u"].values.astype(float)
    wanted = [np.nanmean(u), np.nanstd(u), np.nanmin(u), np.nanmax(u)]
    np.testing.assert_allclose([float(x) for x in row[-5:-1]], wanted, rtol=1e-5)


def test_inspect_a_file(file, capsys):
    assert main(["inspect", str(file)]) == 0
    assert "time 12, lat 6, lon 8" in capsys.readouterr().out
    assert "currents.nc" in complaint(lambda: main(["inspect", str(file) + "c"]), capsys)
    assert "no members" in complaint(lambda: main(["inspect", str(file), "--verify"]), capsys)


def test_inspect_verifies_members_under_a_run(tmp_path, capsys):
    members = tmp_path / "ensemble"
    receipts.begin(members, 2, "a" * 64)
    for member in range(2):
        receipts.member_path(members, member).write_bytes(bytes(100))
        receipts.write_receipt(members, member, "a" * 64)
    assert main(["inspect", str(tmp_path), "--verify"]) == 0
    text = capsys.readouterr().out
    assert "2 of 2 members finished" in text and "2 members, each as its receipt says" in text
    receipts.member_path(members, 1).write_bytes(bytes(99) + b"1")
    assert main(["inspect", str(tmp_path), "--verify"]) == 1
    assert "member_00001.nc" in capsys.readouterr().out


def test_doctor(capsys, monkeypatch):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"torch", "netCDF4", "zarr", "GPU", "triton"} <= {line.split()[1] for line in lines}

    def broken() -> str:
        """disk: room"""
        raise OSError("full")

    monkeypatch.setattr("sciguide.cli.doctor.disk", broken)
    assert main(["doctor"]) == 1
    assert "BAD  disk         full" in capsys.readouterr().out


RUN = """
run: runs/a
data:
  {source: currents.nc, variables: [u, v], batch_size: 8, steps_per_epoch: 1, train: ["2002-01-01", "2002-02-10"],
   validation: ["2002-02-11", "2002-02-20"], test: ["2002-02-21", "2002-03-01"]}
model: {width: 8, multipliers: [1], equations: {nondivergence: {u: u, v: v}}}
trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
"""


def test_fit_generate_and_inspect_a_run(tmp_path, make_fields, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_fields(steps=60).to_netcdf("currents.nc")
    Path("run.yaml").write_text(RUN)
    assert main(["fit", "-c", "run.yaml"]) == 0
    assert main(["generate", "runs/a", "--members", "2", "--steps", "2"]) == 0
    capsys.readouterr()
    assert main(["inspect", "runs/a", "--verify"]) == 0
    text = capsys.readouterr().out
    for part in ("u [m s-1], v [m s-1]", "lat 6 x lon 8, 87.5% valid", "prior eof", "equation   nondivergence"):
        assert part in text
    assert re.search(r"the shortest octave [\d.]+ and [\d.]+ times white noise's\n", text)
    assert "2 of 2 members finished" in text and "2 members, each as its receipt says" in text
    Path("broken.pt").write_bytes(Path("runs/a/model.pt").read_bytes()[:-100])
    assert "broken.pt" in complaint(lambda: main(["inspect", "broken.pt"]), capsys)


def test_fit_imports_no_equation_that_was_not_allowed(tmp_path, make_fields, capsys, monkeypatch):
    make_fields(steps=24).to_netcdf(tmp_path / "fields.nc")
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    words = ["fit", "--data.source", str(tmp_path / "fields.nc"), "--run", str(tmp_path / "run")]
    assert main([*words, "--model.equations", '{"antigravity:fly": {}}']) == 2
    assert "antigravity:fly: antigravity may not be imported" in capsys.readouterr().err
    assert "antigravity" not in sys.modules and not (tmp_path / "run").exists()
