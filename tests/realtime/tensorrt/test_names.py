"""Every TensorRT name that the code uses exists in TensorRT 10.16 and 11.4 and in the installed TensorRT-RTX.

`api.py` holds the names as types, mypy keeps the code to them, and these tests keep them to the real thing.
`tensorrt_names.json` lists, for those classes, all the attributes of the real bindings of both versions.
"""

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from polypstream.realtime.tensorrt import api

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "realtime" / "tensorrt"
LISTS: Mapping[str, Mapping[str, list[str]]] = json.loads(
    Path(__file__).with_name("tensorrt_names.json").read_text(encoding="utf-8")
)
RTX_CLASSES = {
    "RtxBuilderConfig": "IBuilderConfig",
    "RtxRuntime": "Runtime",
    "RtxExecutionContext": "IExecutionContext",
    "RtxEngineValidity": "EngineValidity",
}
DOORS = {"adapter.py", "progress.py"}
"""The modules that subclass TensorRT's classes, for which types have no way."""


def used_classes() -> Iterator[tuple[str, set[str]]]:
    for name, kind in vars(api).items():
        if inspect.isclass(kind) and kind.__module__ == api.__name__:
            yield name, used_names(kind)


def used_names(kind: type) -> set[str]:
    return {name for name in (*vars(kind), *kind.__annotations__) if not name.startswith("_")}


def missing(
    uses: Iterator[tuple[str, set[str]]] | list[tuple[str, set[str]]], names: Mapping[str, list[str]]
) -> set[str]:
    """`Class.name` of all that is used and not in the lists."""
    wanted = {
        f"{kind}.{name}" for kind, used in uses if not kind.startswith("Rtx") and kind != "Module" for name in used
    }
    return wanted - {f"{kind}.{name}" for kind, listed in names.items() for name in listed}


@pytest.mark.parametrize("version", LISTS)
def test_all_names_are_in_the_list_of(version: str) -> None:
    uses = list(used_classes())
    assert sum(len(names) for _, names in uses) > 40
    assert not missing(uses, LISTS[version])
    assert used_names(api.Module) <= set(LISTS[version]), "classes of the module"


def test_a_made_up_name_is_found() -> None:
    class Builder(Protocol):
        fast_path: bool

        def create_network(self) -> None: ...
        def build_cuda_engine(self) -> None: ...

    for names in LISTS.values():
        assert missing([("Builder", used_names(Builder))], names) == {"Builder.fast_path", "Builder.build_cuda_engine"}


def test_names_that_eleven_removed_are_found() -> None:
    """The lists are the real ones: what TensorRT 11 took away is in the older one alone."""
    old, new = LISTS.values()
    assert "FP16" in old["BuilderFlag"]
    assert "FP16" not in new["BuilderFlag"]


def test_all_names_are_in_the_installed_rtx(rtx: Any) -> None:
    for kind, names in used_classes():
        real = rtx if kind in ("Module", "RtxModule") else getattr(rtx, RTX_CLASSES.get(kind, kind), None)
        if kind != "RtxEnumeration":
            assert real is not None, kind
            assert not {name for name in names if not hasattr(real, name)}, kind
    for enumeration in (rtx.ComputeCapability, rtx.EngineInvalidityDiagnostics):
        assert enumeration.__members__


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_there_is_no_way_around_the_types(path: Path) -> None:
    """TensorRT comes through the adapter, typed; nothing looks names up at run time or casts to something else."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            assert (module or "").split(".")[0] not in ("tensorrt", "tensorrt_rtx")
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            assert ast.unparse(node.args[0]) == {
                "adapter.py": "MODULES[candidate]",
                "cuda.py": "'cuda.bindings.runtime'",
                "device_frame.py": "'cuda.core.utils'",
            }.get(path.name)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "cast":
            assert ast.unparse(node.args[0]).startswith("api.")
        if path.name in ("builder.py", "cache.py", "session.py", "segmenter.py"):
            assert not (isinstance(node, ast.Name) and node.id in ("Any", "getattr", "setattr"))
    if path.name not in DOORS:
        assert "type: ignore" not in path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_mypy_finds_a_name_that_the_types_do_not_have(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed: pip install 'polypstream[dev]'")
    snippet = tmp_path / "snippet.py"
    snippet.write_text(
        "from polypstream.realtime.tensorrt.adapter import TensorRt\n"
        "def use(trt: TensorRt) -> None:\n"
        "    builder = trt.module.Builder(trt.logger)\n"
        "    builder.create_builder_config().set_memory_pool_limit(trt.module.MemoryPoolType.WORKSPACE, 1)\n"
        "    builder.platform_has_fast_fp16\n"
        "    builder.create_builder_config().set_flag(trt.module.BuilderFlag.FP16)\n"
    )
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(snippet)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert '"Builder" has no attribute "platform_has_fast_fp16"' in checked.stdout
    assert '"IBuilderConfig" has no attribute "set_flag"' in checked.stdout
    assert '"BuilderFlag" has no attribute "FP16"' in checked.stdout
    assert "Found 3 errors" in checked.stdout
