"""The table of docs/kafka.md: every argument of aiokafka's clients, and every parameter of the URL, is in it."""

import inspect
import re
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient

from cutbank.transports.kafka.settings import KafkaSettings

PAGE = (Path(__file__).parents[2] / "docs" / "kafka.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## What can be set on the client")[2]
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", SECTION, flags=re.MULTILINE))
ARGUMENTS = sorted(
    {
        name
        for client in (AIOKafkaClient, AIOKafkaProducer, AIOKafkaConsumer)
        for name in inspect.signature(client.__init__).parameters
        if name != "self"
    }
)


def test_there_is_something_to_look_for() -> None:
    assert {"client_id", "acks", "isolation_level"} <= set(ARGUMENTS)


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_each_argument_is_a_parameter_or_has_a_reason(argument: str) -> None:
    told = ROWS[argument]
    named = set(re.findall(r"`(\w+)`", told)) & set(KafkaSettings.model_fields)
    assert named or re.match(r"none|the hosts", told), told
    assert bool(named) or len(told.split()) >= 3, told  # "none: because"


def test_the_table_names_no_argument_that_is_none() -> None:
    assert set(ROWS) == set(ARGUMENTS)


@pytest.mark.parametrize("field", KafkaSettings.model_fields)
def test_each_parameter_is_on_the_page(field: str) -> None:
    assert f"`{field}`" in PAGE
