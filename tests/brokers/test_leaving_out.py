"""What is left out where a broker is missing, and where that fails instead."""

import pytest

from brokers.jars import NotOnThisMachine, ServerUnavailable, leave_out

LACKS = NotOnThisMachine("java is missing")
FAILS = ServerUnavailable("mvn could not copy")


@pytest.mark.parametrize(
    ("environ", "missing", "outcome"),
    [
        ({}, LACKS, pytest.skip.Exception),
        ({}, FAILS, pytest.skip.Exception),
        ({"CI": "true"}, LACKS, pytest.skip.Exception),
        ({"CI": "true"}, FAILS, pytest.fail.Exception),
        ({"CI": "true", "SERVERS_OF_TESTS": "required"}, LACKS, pytest.fail.Exception),
        ({"SERVERS_OF_TESTS": "required"}, FAILS, pytest.fail.Exception),
    ],
)
def test_nothing_is_left_out_where_servers_are_required(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], missing: ServerUnavailable, outcome: type[BaseException]
) -> None:
    for name in ("CI", "SERVERS_OF_TESTS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(outcome, match=str(missing)):
        leave_out("Kafka", missing)
