# SPDX-License-Identifier: Apache-2.0
"""Builds and tests the conda package without a conda channel, as packaging/conda/README.md describes.

    python packaging/conda/check.py OUTDIR

Everything comes from PyPI: rattler-build, which renders the recipe and assembles the package, and what the recipe names
under host and run. Prints the package's path.
"""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RATTLER_BUILD = "py-rattler-build==0.73.0"


def say(text: str) -> None:
    print(f"== {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, **named: object) -> None:
    subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr, **named)  # type: ignore[call-overload]


def environment(folder: Path, packages: list[str]) -> Path:
    """Makes an environment with packages; its Python."""
    say(f"{folder.name}: {' '.join(packages)}")
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages)
    return folder / "bin" / "python"


def from_pypi(requirements: list[str]) -> list[str]:
    """Requirements of conda, as pip has them."""
    return [text.replace(" ", "") for text in requirements if text not in ("python", "pip")]


def main(outdir: Path) -> None:
    """In the environment with rattler-build."""
    from rattler_build import Package, Stage0Recipe, VariantConfig, assemble_package

    variants = VariantConfig.from_file(HERE / "variants.yaml")
    rendered = Stage0Recipe.from_file(HERE / "recipe.yaml").render(variants)
    here = f"{sys.version_info.major}.{sys.version_info.minor}.*"
    (chosen,) = (each for each in rendered if str(each.variant["python"]).startswith(here))
    recipe = chosen.recipe.to_dict()
    say(f"{len(rendered)} variants; building {recipe['build']['string']}")

    # The host environment, and the one that the package is installed into, as conda does: its files are copied.
    host = environment(outdir / "host", from_pypi(recipe["requirements"]["host"]))
    before = set((outdir / "host").rglob("*"))
    source = outdir / "source"
    shutil.rmtree(source, ignore_errors=True)
    ignored = shutil.ignore_patterns(".*", "build", "out", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    path = f"{host.parent}{os.pathsep}{os.environ['PATH']}"
    run("bash", HERE / recipe["build"]["script"], cwd=source, env=os.environ | {"PYTHON": str(host), "PATH": path})
    files = [file for file in (outdir / "host").rglob("*") if file not in before and file.is_file()]
    files = [file for file in files if "__pycache__" not in file.parts]

    test = environment(outdir / "test", from_pypi(recipe["requirements"]["run"]))
    staged = outdir / "staged"
    shutil.rmtree(staged, ignore_errors=True)
    for file in files:
        for target in (outdir / "test", staged):
            copy = target / file.relative_to(outdir / "host")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
            if copy.parent.name == "bin":  # conda writes the prefix anew
                copy.write_text(re.sub(r"^#!.*", f"#!{target}/bin/python", copy.read_text(), count=1))

    path = f"{test.parent}{os.pathsep}{os.environ['PATH']}"
    for part in recipe["tests"]:
        for module in part.get("python", {}).get("imports", []):
            run(test, "-c", f"import {module}")
        for line in part.get("script", []):
            say(line)
            run("bash", "-c", line, cwd=outdir, env=os.environ | {"PATH": path})
    run(test, "-m", "pip", "check")

    about, requirements = recipe["about"], recipe["requirements"]
    package = assemble_package(
        recipe["package"]["name"],
        recipe["package"]["version"],
        "linux-64",
        recipe["build"]["string"],
        outdir,
        files_dir=staged,
        summary=about["summary"],
        license=about["license"],
        license_files=[ROOT / name for name in about["license_file"]],
        depends=requirements["run"],
        constrains=requirements["run_constraints"],
        recipe_dir=HERE,
    )
    read = Package.from_file(package.path)
    assert sorted(str(file.relative_to(outdir / "host")) for file in files) == sorted(map(str, read.files))
    print(package.path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1]).resolve()
    if sys.prefix == str(folder / "tool"):
        main(folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        python = environment(folder / "tool", [RATTLER_BUILD])
        sys.exit(subprocess.run([python, __file__, folder], check=False).returncode)
