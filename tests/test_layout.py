"""Who may import whom, and what is never imported: held by reading every import statement, wherever it stands."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARROWS = {
    "sciguide.kernels": [],
    "sciguide.datasets": ["sciguide.errors"],
    "sciguide.equations": ["sciguide.grid", "sciguide.kernels", "sciguide.errors"],
    "sciguide.simulate": [f"sciguide.{name}" for name in ("equations", "grid", "kernels", "noise", "errors")],
}


def module_files() -> dict[str, Path]:
    """Every module's name and file; `kernels` and `datasets` are links inside the package."""
    folders = [(ROOT / "sciguide", "sciguide"), *((ROOT / n, f"sciguide.{n}") for n in ("kernels", "datasets"))]
    return {
        ".".join([prefix, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__"): path
        for folder, prefix in folders
        for path in folder.rglob("*.py")
        if "configs" not in path.parts
    }


def imports(name: str, path: Path) -> set[str]:
    """The names that a module imports, at the top or inside functions: `from a import b` is both a and a.b."""
    package, found = name.split(".") if path.stem == "__init__" else name.split(".")[:-1], set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            near = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*near, *([node.module] if node.module else [])])
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return found


FILES = module_files()
IMPORTS = {name: imports(name, path) for name, path in FILES.items()}


def inside(name: str, packages: list[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("package", ARROWS)
def test_arrows(package):
    allowed = [package, *ARROWS[package]]
    of_project = {n: {i for i in IMPORTS[n] if i in FILES and i != "sciguide"} for n in IMPORTS if inside(n, [package])}
    assert of_project, f"no module in {package}"
    assert not {n: bad for n, names in of_project.items() if (bad := {i for i in names if not inside(i, allowed)})}


def test_nobody_imports_a_verb_and_only_the_demo_gives_commands():
    outside = {n: found & FILES.keys() for n, found in IMPORTS.items() if not inside(n, ["sciguide.cli"])}
    giving = {n for n, found in outside.items() if "sciguide.cli" in found}
    assert giving == {"sciguide.__main__", "sciguide.demo", "sciguide.demo_problems"}
    verbs = {n for n in FILES if n.startswith("sciguide.cli.")}
    assert not {n: found & verbs for n, found in outside.items() if found & verbs}


def test_links_are_committed_links_and_their_names_stay_free():
    for name in ("kernels", "datasets", "configs"):
        assert (ROOT / "sciguide" / name).readlink() == Path("..") / name
    taken = [n for n, names in IMPORTS.items() if any(inside(i, ["kernels", "datasets"]) for i in names)]
    assert not taken


@pytest.mark.parametrize("verb", ["generate", "evaluate", "inspect", "data", "doctor"])
def test_lightning_is_out_of_reach(verb):
    start = f"sciguide.cli.{verb}"
    reached, waiting = set(), {start} & set(FILES)
    while waiting:
        name = waiting.pop()
        reached.add(name)
        parents = {".".join(name.split(".")[:i]) for i in range(1, name.count(".") + 1)}
        waiting |= ((IMPORTS[name] | parents) & set(FILES)) - reached
    assert not [n for n in reached if any(inside(i, ["lightning", "pytorch_lightning"]) for i in IMPORTS[n])]


def child(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_imports_nothing_heavy():
    code = "import sys, sciguide, sciguide.cli; sciguide.cli.main([]); print('MODULES', *sys.modules)"
    modules = child(code).partition("MODULES")[2].split()
    assert not {"torch", "numpy", "xarray", "lightning", "jsonargparse", "rich", "yaml"} & set(modules)


def test_everything_imports_without_triton_and_residual_stays_a_function():
    code = """
import importlib, pkgutil, sys
sys.modules["triton"] = None
import sciguide
assert callable(sciguide.residual)
for module in pkgutil.walk_packages(sciguide.__path__, "sciguide."):
    if not module.name.startswith("sciguide.kernels.triton_"):  # imported where Triton computes, and nowhere else
        importlib.import_module(module.name)
for name in sciguide.__all__:
    assert name == "__version__" or callable(getattr(sciguide, name)), name
"""
    child(code)
