"""`cutbank settings`: complete, unambiguous, and the same for every service that shares a setting."""

from cutbank.cli.services import SERVICES, load_services
from cutbank.cli.settings import markdown, shared_rows

from .conftest import Run


def test_every_field_of_every_service_is_in_both_forms(cutbank: Run) -> None:
    plain, table = cutbank("settings")[1], cutbank("settings", "--markdown")[1]
    services = load_services()
    assert list(services) == list(SERVICES)
    for service in services.values():
        for field in service.settings.model_fields:
            variable = service.settings.environment_name(field)
            option = "--" + field.replace("_", "-")
            assert f"| `{variable}` | `{option}`" in table
            assert f"  {variable}  {option} " in plain


def test_every_variable_means_one_thing() -> None:
    """A variable that two services read is one setting: same option, type, default and meaning, so one row."""
    variables = [shared.row.variable for shared in shared_rows(load_services())]
    assert sorted(variables) == sorted(set(variables))


def test_every_setting_says_what_it_is_and_what_it_is_by_default() -> None:
    for shared in shared_rows(load_services()):
        assert shared.row.meaning.endswith("."), shared.row.variable
        assert shared.row.default
        assert shared.services


def test_shared_settings_come_first() -> None:
    rows = shared_rows(load_services())
    assert rows[0].services == tuple(SERVICES)
    counts = [len(shared.services) for shared in rows]
    assert counts == sorted(counts, reverse=True)


def test_the_markdown_is_a_table_of_six_columns() -> None:
    lines = markdown(shared_rows(load_services())).splitlines()
    assert lines[1] == "|---|---|---|---|---|---|"
    for line in lines:
        assert line.replace("\\|", "").count("|") == 7


def test_every_setting_has_its_option(cutbank: Run) -> None:
    for name, service in load_services().items():
        out = cutbank(name, "--help")[1]
        for field in service.settings.model_fields:
            assert f"--{field.replace('_', '-')} " in out
