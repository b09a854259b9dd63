"""The documentation site builds without warnings, and the names it mentions exist."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

import polypstream
from polypstream.cli import app
from polypstream.cli.live import CREDENTIALS_VARIABLE

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
CODE = re.compile(r"```(?:sh|ini)\n(.+?)```|`([^`\n]+)`|^    (.+)$", flags=re.DOTALL | re.MULTILINE)
ELSEWHERE = {  # options of other programs, of the benchmarks, and of polypstream itself
    *("--data", "--dry-run", "--network", "--quantized", "--taken"),
    *("--no-create-home", "--system", "--now", "--unit", "--follow", "--detach", "--build", "--rm", "--device"),
    *("--strongly", "--user", "--gpus", "--strict", "--install-completion", "--version", "--help"),
    *("--install", "--no-build-isolation"),
}


def commands() -> TyperGroup:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'polypstream[docs]'")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    pages = {path.parent.name for path in (tmp_path / "site").glob("*/index.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"} <= pages
    reference = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    for name in set(polypstream.__all__) - {"__version__"}:
        assert re.search(rf'id="polypstream\.(?:api\.)?{name}"', reference), name
    for page in (tmp_path / "site").glob("**/index.html"):
        assert "fonts.googleapis.com" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_subcommand_and_option_named_exists(page: Path) -> None:
    params = [param for command in commands().commands.values() for param in command.params]
    options = {name for param in params for name in (*param.opts, *param.secondary_opts)}
    code = "\n".join("".join(groups) for groups in CODE.findall(page.read_text(encoding="utf-8")))
    for name in re.findall(r"(?:bin/|^|`)polypstream ([a-z]+)\b", code):
        assert name in commands().commands, name
    for option in re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", code):
        assert option in options | ELSEWHERE, option


def test_no_page_speaks_of_an_option_in_the_wrong_subcommand() -> None:
    for page in PAGES:
        for line in re.findall(r"bin/polypstream ([a-z]+ .+)", page.read_text(encoding="utf-8").replace("\\\n", " ")):
            name, _, rest = line.partition(" ")
            known = {option for param in commands().commands[name].params for option in param.opts}
            for option in re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", rest.partition(" && ")[0].partition(" #")[0]):
                assert option in known, f"{page.name}: {line}"


def test_every_quoted_error_message_is_one_that_the_package_gives() -> None:
    """Headings of the troubleshooting page quote messages; the text between … is literal text of the sources."""
    sources = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("src/polypstream", "realtime", "train", "export")
        for path in (ROOT / folder).rglob("*.py")
        if not path.is_symlink()
    )
    literal = re.sub(r'"\s*\n\s*f?"', "", sources)
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^#+ .*`(.+)`$", page, flags=re.MULTILINE)
    assert len(quoted) >= 10
    for message in quoted:
        for part in filter(None, (part.strip() for part in message.split("…"))):
            assert part in literal, part


def test_version_is_the_same_everywhere() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    changelog, citation, compose = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "CITATION.cff", "compose.yaml")
    )
    newest = re.search(r"^## \[(.+)\] - \d{4}-\d{2}-\d{2}$", changelog, flags=re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == version
    assert f"\nversion: {version}\n" in citation
    assert f"image: polypstream:{version}\n" in compose


@pytest.mark.parametrize("file", ["packaging/polypstream-live.service", "packaging/nginx.conf", "compose.yaml"])
def test_deployment_files_use_options_that_live_has(file: str) -> None:
    known = {option for param in commands().commands["live"].params for option in param.opts}
    variables = {str(param.envvar) for param in commands().commands["live"].params} | {CREDENTIALS_VARIABLE}
    text = (ROOT / file).read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", text)
    assert named
    assert set(named) <= known
    own = {"POLYPSTREAM_SOURCE"}  # set and read in the file itself
    assert set(re.findall(r"\bPOLYPSTREAM_[A-Z_]+", text)) <= variables | own
