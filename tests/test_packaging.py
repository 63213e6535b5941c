"""What pyproject.toml installs is what stands in the repository."""

import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "rece_lightning"
SETUPTOOLS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def folders() -> list[Path]:
    """The package's folders, those behind a link too."""
    below = [folder for entry in PACKAGE.iterdir() if entry.is_dir() for folder in [entry, *entry.rglob("*/")]]
    return [folder for folder in [PACKAGE, *below] if folder.name != "__pycache__"]


def test_every_package_is_installed() -> None:
    packages = [folder for folder in folders() if (folder / "__init__.py").exists()]
    assert SETUPTOOLS["packages"] == sorted(".".join(folder.relative_to(REPOSITORY).parts) for folder in packages)


def test_every_file_of_data_is_installed() -> None:
    stand = {file for folder in folders() for file in folder.iterdir() if file.is_file()}
    data = {file for file in stand if file.suffix not in (".py", ".pyc")}
    installed = {
        file
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for file in REPOSITORY.joinpath(*package.split(".")).glob(pattern)
        if file.is_file()
    }
    assert data == installed
