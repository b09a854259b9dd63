"""Errors name the fix for the way in which the package was installed."""

import json
import sys
from pathlib import Path

import pytest

from polypstream.errors import MissingExtraError, PolypstreamError, install_command, requirement


def test_every_error_is_also_a_builtin_exception() -> None:
    for leaf in PolypstreamError.__subclasses__():
        assert any(
            base.__module__ == "builtins" for base in leaf.__mro__ if base not in (Exception, BaseException, object)
        )


def installed_from(monkeypatch: pytest.MonkeyPatch, folder: Path, origin: dict[str, object] | None) -> None:
    """Simulate an installation as recorded by pip; None for one from an index."""
    record = folder / "site" / "polypstream-9.9.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: polypstream\nVersion: 9.9\n")
    if origin is not None:
        (record / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(str(record.parent))


def environment(monkeypatch: pytest.MonkeyPatch, prefix: Path, *, pip: bool, active: bool) -> None:
    (prefix / "bin").mkdir(parents=True)
    if pip:
        (prefix / "bin" / "pip").touch()
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(sys, "executable", str(prefix / "bin" / "python"))
    monkeypatch.setenv("VIRTUAL_ENV", str(prefix) if active else "")


@pytest.mark.parametrize(
    ("folder", "pip", "active", "command"),
    [
        (".venv", True, True, "pip install 'polypstream[serve]'"),
        (".venv", True, False, ".venv/bin/pip install 'polypstream[serve]'"),
        (".venv", False, False, "uv pip install --python {prefix}/bin/python 'polypstream[serve]'"),
        ("uv/tools/polypstream", False, False, "uv tool install --force 'polypstream[serve]'"),
        ("pipx/venvs/polypstream", False, False, "pipx install --force 'polypstream[serve]'"),
    ],
)
def test_the_install_command_suits_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str, *, pip: bool, active: bool, command: str
) -> None:
    environment(monkeypatch, tmp_path / folder, pip=pip, active=active)
    installed_from(monkeypatch, tmp_path, None)
    monkeypatch.chdir(tmp_path)
    assert install_command("serve") == command.format(prefix=tmp_path / folder)
    assert str(MissingExtraError("the page", "serve")).endswith(install_command("serve"))


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        (None, "'polypstream[serve]'"),
        ({"url": "file:///home/a%20b/polyp", "dir_info": {"editable": True}}, "--editable '/home/a b/polyp[serve]'"),
        ({"url": "file:///home/polyp", "dir_info": {}}, "'/home/polyp[serve]'"),
        ({"url": "file:///tmp/p.whl", "archive_info": {}}, "'polypstream[serve] @ file:///tmp/p.whl'"),
        ({"url": "https://host/p.git", "vcs_info": {"vcs": "git"}}, "'polypstream[serve] @ git+https://host/p.git'"),
    ],
    ids=["index", "editable", "folder", "wheel", "git"],
)
def test_an_extra_is_installed_from_where_the_package_came(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, origin: dict[str, object] | None, wanted: str
) -> None:
    installed_from(monkeypatch, tmp_path, origin)
    assert requirement("serve") == wanted
