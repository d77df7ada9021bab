"""The documentation is true: generated pages are fresh, links lead somewhere, commands exist."""

import importlib.util
import json
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
COMMAND = re.compile(
    r"^(?:\$ |    |.*\| |docker compose exec \w+ )?((?:\.venv/bin/)?cutbank (?!demo\b.*\|)[a-z][^\n|&>#]*)",
    re.MULTILINE,
)
FENCED = re.compile(r"```(?:console|sh|shell)?\n(.*?)```", re.DOTALL)


def generated() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return pages


@pytest.mark.parametrize(
    "name", ["settings.md", "metrics.md", "limits.md", "reliability.md", "kafka-figures.md", "sink-figures.md"]
)
def test_generated_pages_are_fresh(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generated()[name], "run: make docs"


def test_every_test_that_the_page_of_faults_names_exists() -> None:
    page = generated()["reliability.md"]
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 30
    sources = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "src/cutbank/testing").glob("*.py")]
    there = {name for path in sources for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))}
    assert named <= there, named - there


def test_the_readme_counts_the_kills_of_the_last_long_runs() -> None:
    simulation, chaos, kafka, s3 = (
        json.loads((ROOT / f"docs/results/{form}.json").read_text())
        for form in ("simulation", "chaos", "chaos-kafka", "chaos-s3")
    )
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{sum(simulation['kills'].values()):,} simulated and {chaos['kills_total']:,} real kills" in text
    assert f"and {kafka['kills_total']:,} on Kafka" in text
    assert f"{s3['kills_total']:,} on S3" in text
    assert s3["short"] == ("in a shorter one" in text)
    for name in ("lost", "repeated", "different"):
        assert simulation[name] == chaos[name] == 0


def test_the_readme_has_the_sink_s_speed_of_its_last_benchmark() -> None:
    found = json.loads((ROOT / "docs/results/bench-sink.json").read_text())["throughput"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    share = f"{found['share_of_gzip_alone']:.2f}".removeprefix("0")
    assert f"{share} of what gzip alone does" in text
    assert f"| {round(found['gzip_records_per_s'], -3):,} |" in text


def test_the_last_long_run_on_kafka_kept_every_promise_and_caught_every_bug() -> None:
    found = json.loads((ROOT / "docs/results/chaos-kafka.json").read_text())
    assert found["ok"]
    assert all(found[name] == 0 for name in ("lost", "repeated", "different", "foreign", "positions_ahead"))
    assert sum(found["kills_at_random"][role] for role in ("scorer", "sink")) >= 50
    assert len(found["faults"]) == 11
    assert all(plant["caught"] for plant in found["plants"].values())


def test_the_last_run_on_s3_kept_every_promise_and_caught_every_bug() -> None:
    found = json.loads((ROOT / "docs/results/chaos-s3.json").read_text())
    assert found["ok"]
    assert all(found[name] == 0 for name in ("lost", "repeated", "different", "foreign", "positions_ahead", "lag"))
    happened = found["faults"]["kills"]["happened"]
    assert sum(count for what, count in happened.items() if what.startswith("killed ")) >= 200
    assert len(found["faults"]) == 10
    assert all(fault["ok"] and fault["error_lines"] for fault in found["faults"].values())
    assert len(found["plants"]) == 5
    assert all(plant["caught"] for plant in found["plants"].values())


def test_no_page_links_to_nowhere() -> None:
    assert ROOT / "README.md" in PAGES
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_page_is_reached_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    assert pages - set(re.findall(r"\]\(([^)#\s]+)", text)) == set()


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
