"""What pip installs, and what the source distribution holds."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import captum_cams

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
DATA = (
    "py.typed",
    "examples/shapes_net.pt",
    "evaluation/report.html.j2",
    "evaluation/wnids.txt",
)
SDIST = """
import sys
from setuptools import build_meta
build_meta.build_sdist(sys.argv[1])
"""
# The packages that an installation needs are those of the tests' own environment.
OPTIONS = ["-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]


def run(*command, cwd, path=""):
    environment = {**os.environ, "PYTHONPATH": str(path)}
    environment.pop("PYTEST_ADDOPTS", None)
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def python(*arguments, cwd, path=""):
    return run(sys.executable, *arguments, cwd=cwd, path=path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the unpacked sdist, and what pip installs of the two packages."""
    folder = tmp_path_factory.mktemp("packages")
    # Building writes to the sources.
    ignored = (ROOT / ".gitignore").read_text().replace("/", "").split()
    unwanted = shutil.ignore_patterns(".git", *ignored)
    shutil.copytree(ROOT, folder / "copy", ignore=unwanted)
    python("-c", SDIST, folder, cwd=folder / "copy")
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (folder / sdist.name.removesuffix(".tar.gz")).rename(folder / "source")
    python("-m", "pip", "wheel", *OPTIONS, sdist, "-w", folder, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    for package, name in ((wheel, "from_wheel"), (sdist, "from_sdist")):
        target = ["--target", folder / name]
        python("-m", "pip", "install", *OPTIONS, package, *target, cwd=folder)
    return folder


def test_the_sdist_holds_every_file(built):
    """So that its tests, tutorials and documents are those of the repository."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the files are not in a repository of git")
    known = run("git", "ls-files", cwd=ROOT).splitlines()
    missing = [
        name
        for name in known
        if (ROOT / name).exists() and not (built / "source" / name).exists()
    ]
    assert known and not missing


def test_the_wheel_holds_the_package_alone(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"captum_cams"}
    assert {f"captum_cams/{name}" for name in DATA} <= set(names)


@pytest.mark.parametrize("package", ["from_wheel", "from_sdist"])
def test_an_installation(package, built, tmp_path):
    """The command, and the data that it and the package read."""
    target = built / package
    assert all((target / "captum_cams" / name).exists() for name in DATA)
    where = "import captum_cams.evaluation as e; print(e.__file__)"
    file = python("-c", where, cwd=tmp_path, path=target)
    assert Path(file.strip()).is_relative_to(target)
    command = target / ("Scripts" if os.name == "nt" else "bin") / "captum-cams"
    version = run(command, "--version", cwd=tmp_path, path=target)
    assert captum_cams.__version__ in version
    if package == "from_wheel":
        run(command, "demo", cwd=tmp_path, path=target)
        assert list(tmp_path.rglob("*.png"))


def test_the_tests_of_the_sdist(built):
    """All are found, and some run, on the package beside them."""
    source = built / "source"
    found = python("-m", "pytest", "--collect-only", "-q", cwd=source)
    assert "tests/test_packages.py" in found
    few = ["tests/test_readme.py", "tests/test_architecture.py"]
    python("-m", "pytest", "-q", *few, cwd=source)
