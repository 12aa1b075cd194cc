"""The distribution: what is in the wheel, what an import loads, how fast the command line answers."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("workloads", "submissions", "runner", "analysis")


def python(*arguments: str, cwd: Path, path: Sequence[Path] = ()) -> str:
    """Standard output of a fresh interpreter that sees this environment's libraries, `path`, and not the working tree.

    An editable install reaches the tree through a .pth file, which is read in site-packages alone; so libraries come
    in through PYTHONPATH and site is left out.
    """
    libraries = [*map(str, path), sysconfig.get_path("purelib")]
    done = subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(libraries), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's contents, as pip would lay them out."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(folder), str(wheel)],
        check=True,
        capture_output=True,
    )
    return folder


def tracked(package: str) -> set[str]:
    """Files of a package that a commit would hold."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", package]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return {name for name in listed if (ROOT / name).exists()}


def test_the_wheel_holds_the_four_packages_whole_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == set().union(*map(tracked, PACKAGES))


def test_the_installed_wheel_answers_from_a_foreign_folder(installed: Path, tmp_path: Path) -> None:
    where = python("-c", "import runner, analysis.load; print(runner.__file__)", cwd=tmp_path, path=[installed])
    assert where.startswith(str(installed))
    listed = python("-m", "runner.cli", "list", "submissions", cwd=tmp_path, path=[installed])
    assert "adam" in listed


def test_the_console_command_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"slimperf": "runner.cli:main"}


def test_analysis_loads_no_torch(tmp_path: Path) -> None:
    code = "import sys, analysis.load; print(sorted({n.split('.')[0] for n in sys.modules} & {'torch', 'workloads', 'submissions'}))"
    assert python("-c", code, cwd=tmp_path, path=[ROOT]).strip() == "[]"


def test_help_is_quick_because_it_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from runner import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'pandas', 'numpy', 'matplotlib', 'rich', 'submitit'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "sweep" in done.stdout
    assert done.stderr.strip() == "[]"
