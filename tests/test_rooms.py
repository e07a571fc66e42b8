"""The house keeps its rules: who imports whom, what is light, what is packaged."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import facestream

ROOT = Path(facestream.__file__).parent
ROOMS = ("configs", "models", "stream", "train", "tools")
MAY_IMPORT = {
    "configs": {"configs"},
    "models": {"models"},
    "stream": {"stream", "configs", "models"},
    "train": {"train", "configs", "models"},
    "tools": set(ROOMS),
}
TORCH_FOLDERS = ("models/networks", "train")
JOINS_STAGES = {
    *("reading.py", "workers.py", "decide.py", "deciding.py", "pipeline.py"),
    "enrol_clip.py",
}
STAGES = {"detect", "track", "embed", "aggregate", "match", "publish", "feed", "decide"}


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported_modules(path: Path) -> list[tuple[str, ...]]:
    """Absolute module paths below facestream that a file imports, as tuples of names."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)]
            found.append(base + tuple((node.module or "").split(".")) if node.module else base)
            found += [(*base, alias.name) for alias in node.names if not node.module]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            for name in names:
                assert not str(name).startswith("facestream"), f"{path}: import {name} relatively"
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_it_may(room: str) -> None:
    for path in sources(room):
        for module in imported_modules(path):
            if module and module[0] in ROOMS:
                assert module[0] in MAY_IMPORT[room], f"{path} imports {'.'.join(module)}"


def test_stages_are_joined_in_few_files_and_import_no_other_stage() -> None:
    for path in sources("stream"):
        if path.name in JOINS_STAGES:
            continue
        modules = [m for m in imported_modules(path) if len(m) > 1 and m[0] == "stream"]
        others = {module[1] for module in modules} & STAGES - {path.stem}
        allowed = 0 if path.stem in STAGES else 1
        assert len(others) <= allowed, f"{path.name} imports the stages {', '.join(others)}"


def test_torch_is_named_only_where_networks_live() -> None:
    for room in ROOMS:
        for path in sources(room):
            if path.relative_to(ROOT).as_posix().startswith(TORCH_FOLDERS):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                assert not any(n.split(".")[0] == "torch" for n in names), path


def modules_after(statement: str) -> set[str]:
    """Top-level modules loaded in a fresh interpreter after `statement`."""
    code = f"import sys\n{statement}\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_client_needs_msgspec_and_pyzmq_alone() -> None:
    loaded = modules_after("import facestream.stream.client")
    assert {"msgspec", "zmq"} <= loaded
    assert not loaded & {"numpy", "cv2", "av", "onnxruntime", "sqlalchemy", "rich", "typer", "yaml"}


def test_the_command_line_starts_without_heavy_modules() -> None:
    loaded = modules_after("import facestream.tools.cli")
    assert not loaded & {"cv2", "av", "onnx", "onnxruntime", "scipy", "sqlalchemy", "torch"}


def test_every_package_folder_is_listed_in_pyproject() -> None:
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    folders = {"facestream"}
    for room in ROOMS:
        for init in (ROOT / room).rglob("__init__.py"):
            folders.add(".".join(("facestream", *init.parent.relative_to(ROOT).parts)))
        for path in sources(room):
            assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py"
    assert listed == folders


def test_the_one_exception_tree_has_an_exit_code_for_every_branch() -> None:
    branches = facestream.FacestreamError.__subclasses__()
    codes = [branch.exit_code for branch in branches]
    assert len(codes) == len(set(codes)) and all(1 < code < 126 for code in codes)
    assert all(branch.__name__ in (facestream.__doc__ or "") for branch in branches)
