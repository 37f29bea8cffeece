"""The rules of the house: names, import order, where Ray may stand, what the wheel holds, what the files may carry."""

from __future__ import annotations

import ast
import json
import platform as standard_platform
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "platform"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Left may not import right; rooms of one level may not import each other.
LEVELS = [
    {"errors", "records", "frames", "headers", "options", "arguments"},
    {"pixels", "config", "where"},
    {"artifacts", "cluster", "dicom"},
    {"corpus", "ingest", "model", "export"},
    {"evaluate"},
    {"train"},
    {"tune", "serve"},
    {"report"},
    {"demo"},
    {"cli_evaluate", "cli_index", "cli_keys", "cli_serve", "cli_tune"},
    {"cli"},
]
# The one file of each room that knows Ray; serve has one more for its profile of several deployments, and one for shards of an
# index, tune some for what Ray calls back. 'cluster' is the only one that starts it.
RAY_EDGE = {
    "cluster.py",
    "ingest/pipeline.py",
    "evaluate/embed.py",
    "train/loop.py",
    "tune/sweep.py",
    "tune/places.py",
    "tune/relay.py",
    "tune/distinct.py",
    "serve/app.py",
    "serve/split.py",
    "serve/shards.py",
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level(name: str) -> int:
    return next(i for i, names in enumerate(LEVELS) if name in names)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(str(node.module))
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "biomedray"}
    return found


def test_platform_is_the_standard_librarys():
    assert Path(standard_platform.__file__).is_relative_to(Path(sysconfig.get_paths()["stdlib"]))


def test_the_package_folder_shadows_nothing():
    assert not (PACKAGE / "__init__.py").exists()
    assert not (PACKAGE / "__main__.py").exists()
    assert not (ROOT / "tests" / "platform").exists()
    assert (ROOT / ".link" / "biomedray").resolve() == PACKAGE
    names = {path.stem for path in MODULES} | {path.parent.name for path in MODULES if path.parent != PACKAGE}
    assert not names & (set(sys.stdlib_module_names) - {"__init__"})


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    own = room(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "biomedray" and len(parts) > 1 and parts[1] != own:
            assert level(parts[1]) < level(own), f"{own} imports {parts[1]}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_ray_stands_only_at_the_edge(path):
    name = path.relative_to(PACKAGE).as_posix()
    uses_ray = any(n.split(".")[0] == "ray" for n in imports(path))
    assert not uses_ray or name in RAY_EDGE
    assert name == "cluster.py" or not re.search(r"\bray\.init\(", path.read_text())


def test_no_front_door_shares_its_name_with_a_module():
    # importing a module sets it as an attribute of its package, which would replace the function
    clashes = []
    for door in PACKAGE.glob("*/__init__.py"):
        functions = {node.name for node in ast.parse(door.read_text()).body if isinstance(node, ast.FunctionDef)}
        clashes += [f"{door.parent.name}.{name}" for name in functions & {p.stem for p in door.parent.iterdir()}]
    assert clashes == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_module_opens_with_a_sentence(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert len(docstring.split()) >= 4


def test_importing_the_front_doors_is_light():
    code = (
        "import sys, biomedray.cli, biomedray.corpus, biomedray.ingest, biomedray.export, biomedray.model, biomedray.train, "
        "biomedray.evaluate, biomedray.serve, biomedray.report;"
        "print([m for m in ('ray', 'torch', 'transformers', 'matplotlib', 'faiss') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == "[]"


def test_what_the_controller_of_a_trial_imports_is_light():
    code = "import sys, biomedray.tune.places, biomedray.tune.relay;"
    code += "print([m for m in ('torch', 'open_clip', 'transformers') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == "[]"


def test_the_wheel_holds_every_module_and_data_file(tmp_path):
    command = [sys.executable, "-m", "uv", "build", "--wheel", "--quiet", "--out-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        f"biomedray/{path.relative_to(PACKAGE).as_posix()}"
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= packed
    assert "platform/cli.py" not in packed


def test_cluster_yaml_fits_rays_own_schema():
    import jsonschema
    import ray.autoscaler
    import yaml

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "max_workers": "many"}, schema)


def test_pins_cover_the_dependencies_and_carry_no_address():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    pinned = {re.split(r"[=; ]", line)[0].lower().replace("_", "-") for line in text.splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    assert {re.split(r"[\[<>=;]", name)[0].strip().lower().replace("_", "-") for name in wanted} <= pinned


def test_the_readme_maps_every_module():
    readme = (ROOT / "README.md").read_text()
    missing = [
        path.relative_to(PACKAGE).as_posix() for path in MODULES if path.name != "__init__.py" and f"{path.name}" not in readme
    ]
    assert not missing


def test_the_readme_lists_every_command():
    from biomedray.cli import app, evaluate_app

    readme = (ROOT / "README.md").read_text()
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    names += [f"evaluate {command.name or command.callback.__name__}" for command in evaluate_app.registered_commands]
    assert [name for name in names if f"biomedray {name}" not in readme] == []
