"""The documentation's links resolve, its commands exist, and no figure is left open."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.cli import COMMANDS, build_app

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Anchors as the usual renderers make them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def commands() -> Iterator[tuple[str, str]]:
    """Give (page, command line) of every shell block, continued lines joined."""
    for page in PAGES:
        for block in FENCE.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip():
                    yield page.name, line.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: no heading for {target}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index


def options_of(command: str) -> set[str]:
    """Flags of one `whaleflux` command, and of the commands below it."""
    import typer  # noqa: PLC0415 - the command tree alone needs it

    group = typer.main.get_command(build_app(command))
    (found,) = group.commands.values()  # type: ignore[attr-defined]
    below = getattr(found, "commands", {}).values()
    params = [p for each in (found, *below) for p in each.params]
    return {flag for p in params for flag in (*p.opts, *p.secondary_opts)} | {"--help"}


def test_whaleflux_commands_and_their_options_exist() -> None:
    known = {command: options_of(command) for command in COMMANDS}
    # Of vLLM's flags, this is the one shown as accepted without effect.
    known["emulate"].add("--enforce-eager")
    for page, line in commands():
        match = re.search(r"^(?:\.venv/bin/)?whaleflux (\S+)(.*?)(?:\s#.*)?$", line)
        if match is None or match[1] == "--help":
            continue
        assert match[1] in known, f"{page}: whaleflux {match[1]}"
        for flag in re.findall(r"(?<=\s)(--?[a-z][a-z-]*)", match[2]):
            assert flag in known[match[1]], f"{page}: whaleflux {match[1]} {flag}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page, line in commands():
        if line.startswith("make "):
            assert line.split()[1] in targets, f"{page}: {line}"


def test_modules_that_are_run_exist() -> None:
    named = (module for _, line in commands() for module in re.findall(r"-m (\w+(?:\.\w+)+)", line))
    for module in named:
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module


def test_files_named_in_commands_exist() -> None:
    for page, line in commands():
        for path in re.findall(r"(?<=\s)((?:examples|deploy|docs|tests)/[\w./-]+)", line):
            assert (ROOT / path).exists(), f"{page}: {path}"


def test_no_figure_is_left_open() -> None:
    for page in PAGES:
        assert "FIGURE:" not in page.read_text(encoding="utf-8"), page.name
