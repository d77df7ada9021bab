"""The documentation is true: generated pages are fresh, links lead somewhere, commands exist."""

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from cutbank.cli.root import cutbank

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path for pattern in ("*.md", "docs/*.md", "services/*/*.md", "examples/*.md") for path in ROOT.glob(pattern)
)
COMMAND = re.compile(r"^(?:\$ |    |.*\| )?((?:\.venv/bin/)?cutbank (?!demo\b.*\|)[a-z][^\n|&>#]*)", re.MULTILINE)
FENCED = re.compile(r"```(?:console|sh|shell)?\n(.*?)```", re.DOTALL)


def generated() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return pages


@pytest.mark.parametrize("name", ["settings.md", "metrics.md", "limits.md"])
def test_generated_pages_are_fresh(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generated()[name], "run: make docs"


def test_no_page_links_to_nowhere() -> None:
    assert ROOT / "README.md" in PAGES
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def commands() -> list[tuple[str, str]]:
    """Every `cutbank …` line in a code block of the documentation."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = [*FENCED.findall(text), *re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)]
        found += [(page.name, match.strip()) for block in blocks for match in COMMAND.findall(block)]
    return found


def test_every_command_in_the_documentation_parses() -> None:
    lines = commands()
    assert len(lines) >= 10
    for page, line in lines:
        words = shlex.split(line)[1:]
        group: click.Command = cutbank
        context = click.Context(cutbank, obj={})
        while isinstance(group, click.Group) and words:
            command = group.get_command(context, words[0])
            assert command is not None, f"{page}: {line}"
            group, words = command, words[1:]
        known = {spelling for parameter in group.params for spelling in (*parameter.opts, *parameter.secondary_opts)}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known | {"--help"}, f"{page}: {line}"
