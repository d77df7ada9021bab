"""What a transport's URL may say, and that wrong ones name their fault."""

from pathlib import Path

import pytest

from cutbank.clock import SystemClock
from cutbank.errors import UsageError
from cutbank.metrics import NoMetrics
from cutbank.transports import TRANSPORTS, open_transport
from cutbank.transports.base import StreamConfig
from cutbank.transports.local import LocalSettings
from cutbank.transports.local.settings import parse_url


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("local:///var/lib/cutbank/log.db", "/var/lib/cutbank/log.db"),
        ("local://data/log.db", "data/log.db"),
        ("local://log.db", "log.db"),
        ("local://Data/Some%20Log%3F.db?poll_ms=5", "Data/Some Log?.db"),
        ("local://./log#1.db", "log#1.db"),
    ],
)
def test_a_url_names_a_file(url: str, path: str) -> None:
    assert parse_url(url)[0] == Path(path)


def test_parameters_set_fields() -> None:
    _, settings = parse_url("local://log.db?durability=process-crash&heartbeat_ms=20&session_timeout_ms=90")
    assert settings == LocalSettings(durability="process-crash", heartbeat_ms=20, session_timeout_ms=90)
    assert parse_url("local://log.db")[1] == LocalSettings(durability="power-loss")


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("local://", "no file is named"),
        ("local://data/", "no file is named"),
        ("local://?poll_ms=5", "no file is named"),
        ("local:data/log.db", "unknown scheme"),
        ("redis://localhost", "local://"),
        ("data/log.db", "local://"),
        ("local://log.db?speed=11", "'speed'"),
        ("local://log.db?poll_ms", "'poll_ms'"),
        ("local://log.db?poll_ms=5&poll_ms=6", "poll_ms is there twice"),
        ("local://log.db?poll_ms=0", "poll_ms"),
        ("local://log.db?poll_ms=soon", "'soon'"),
        ("local://log.db?durability=maybe", "'power-loss' or 'process-crash'"),
        ("local://log.db?heartbeat_ms=1000&session_timeout_ms=2999", "at least 3 times"),
    ],
)
def test_a_wrong_url_is_one_line_that_names_the_fault(url: str, named: str) -> None:
    with pytest.raises(UsageError) as refused:
        open_transport(url, clock=SystemClock(), metrics=NoMetrics())
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_the_registry_opens_a_log_and_its_folder(tmp_path: Path) -> None:
    assert set(TRANSPORTS) == {"local", "kafka"}
    url = f"local://{tmp_path}/new/folder/log.db"
    for _ in range(2):
        async with open_transport(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
            made = await transport.ensure(StreamConfig("s"))
        async with open_transport(url, clock=SystemClock(), metrics=NoMetrics()) as transport:
            assert await transport.describe("s") == made


async def test_a_relative_path_is_fixed_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    transport = open_transport("local://data/log.db", clock=SystemClock(), metrics=NoMetrics())
    monkeypatch.chdir("/")
    async with transport:
        await transport.ensure(StreamConfig("s"))
    assert (tmp_path / "data" / "log.db").exists()
