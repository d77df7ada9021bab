"""Prints what the simulation's tests found, at the end of the run: also where workers ran them."""

import pytest

from simulation.outcome import Total

FIGURES, LINE = "simulation figures", "simulation"
"""Names under which tests record: a total as JSON, or a line."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print them: the totals as one, and the lines."""
    reports = [*terminalreporter.stats.get("passed", ()), *terminalreporter.stats.get("failed", ())]
    told = [
        item
        for report in sorted(reports, key=lambda report: report.nodeid)
        for item in getattr(report, "user_properties", ())
        if item[0] in {FIGURES, LINE}
    ]
    if not told:
        return
    total = Total()
    for name, value in told:
        if name == FIGURES:
            total.merge(value)
    terminalreporter.section("simulation")
    if total.seeds:
        terminalreporter.write_line(str(total))
    terminalreporter.write_line("\n".join(value for name, value in told if name == LINE))
