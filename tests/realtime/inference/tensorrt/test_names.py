"""Every TensorRT name that the code uses exists in TensorRT 10.16 and 11.4 and in the installed TensorRT-RTX.

`api.pyi` holds the names as types, mypy keeps the code to them, and these tests keep them to the real thing.
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

from tests.realtime.inference.tensorrt import fakes
from tests.realtime.inference.tensorrt.conftest import CUDA_MISSING

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "realtime" / "inference" / "tensorrt"
API: dict[str, Any] = {"__name__": "api"}
exec((FOLDER / "api.pyi").read_text(encoding="utf-8"), API)
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
"""The modules that subclass TensorRT's classes, which cannot be typed."""


def used_classes() -> Iterator[tuple[str, set[str]]]:
    for name, kind in API.items():
        if inspect.isclass(kind) and kind.__module__ == "api":
            yield name, used_names(kind)


def used_names(kind: type) -> set[str]:
    return {name for name in (*vars(kind), *kind.__annotations__) if not name.startswith("_")}


def missing(
    uses: Iterator[tuple[str, set[str]]] | list[tuple[str, set[str]]], names: Mapping[str, list[str]]
) -> set[str]:
    """`Class.name` of all used names that are not in the lists."""
    wanted = {
        f"{kind}.{name}" for kind, used in uses if not kind.startswith("Rtx") and kind != "Module" for name in used
    }
    return wanted - {f"{kind}.{name}" for kind, listed in names.items() for name in listed}


@pytest.mark.parametrize("version", LISTS)
def test_all_names_are_in_the_list_of(version: str) -> None:
    uses = list(used_classes())
    assert sum(len(names) for _, names in uses) > 40
    assert not missing(uses, LISTS[version])
    assert used_names(API["Module"]) <= set(LISTS[version]), "classes of the module"


def test_an_unknown_name_is_detected() -> None:
    class Builder(Protocol):
        fast_path: bool

        def create_network(self) -> None: ...
        def build_cuda_engine(self) -> None: ...

    for names in LISTS.values():
        assert missing([("Builder", used_names(Builder))], names) == {"Builder.fast_path", "Builder.build_cuda_engine"}


def test_names_that_eleven_removed_are_found() -> None:
    """The lists are real: names removed in TensorRT 11 are only in the older one."""
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
                "cuda.py": "name",
                "device_frame.py": "'cuda.core.utils'",
            }.get(path.name)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "cast":
            assert ast.unparse(node.args[0]).startswith("'api.")
        if path.name in ("builder.py", "cache.py", "segmenter.py"):
            assert not (isinstance(node, ast.Name) and node.id in ("Any", "getattr", "setattr"))
    if path.name not in DOORS:
        assert "type: ignore" not in path.read_text(encoding="utf-8")


def test_the_stand_ins_have_the_names_that_are_used() -> None:
    runtime = type(fakes.fake_tensorrt(lambda *_: None).module.Runtime(object()))  # type: ignore[arg-type]
    pairs = {"IExecutionContext": fakes.FakeContext, "ICudaEngine": fakes.FakeEngine, "Runtime": runtime}
    for name, fake in pairs.items():
        assert used_names(API[name]) <= set(dir(fake)), name


def test_cuda_core_has_the_names_of_its_stand_ins() -> None:
    core = pytest.importorskip("cuda.core", reason=CUDA_MISSING)
    runtime = pytest.importorskip("cuda.bindings.runtime", reason=CUDA_MISSING)
    pairs: dict[type, Any] = {
        fakes.FakeCuda: runtime,
        fakes.FakeDevice: core.Device,
        fakes.FakePinned: core.LegacyPinnedMemoryResource,
        fakes.FakeBuffer: core.Buffer,
        fakes.FakeMemory: core.Buffer,
        fakes.FakeStream: core.Stream,
        fakes.FakeGraphBuilder: core.graph.GraphBuilder,
        fakes.FakeGraph: core.graph.Graph,
    }
    for fake, real in pairs.items():
        methods = {
            name: inspect.signature(method)
            for name, method in vars(fake).items()
            if inspect.isfunction(method) and (name.startswith("cuda") if fake is fakes.FakeCuda else name[0] != "_")
        }
        for name, signature in methods.items():
            assert hasattr(real, name), f"{real} has no {name}"
            if fake is not fakes.FakeCuda:
                assert set(signature.parameters) <= set(inspect.signature(getattr(real, name)).parameters), name
    assert set(vars(fakes.FakeCuda().core)) <= set(dir(core))


@pytest.mark.slow
def test_mypy_finds_a_name_that_the_types_do_not_have(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed: pip install 'polypstream[dev]'")
    snippet = tmp_path / "snippet.py"
    snippet.write_text(
        "from polypstream.realtime.inference.tensorrt.adapter import TensorRt\n"
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
