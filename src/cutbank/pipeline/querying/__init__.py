"""Queries: the lines of a period out of the objects that claims name, as tables for SQL, and table definitions.

`take` reads a period into a `Database`, which answers one SELECT; `definition` writes DDL for other engines. Reads
only; shares nothing with a running sink but the claims' format.
"""

from cutbank.pipeline.querying.database import Database, Limits, Result
from cutbank.pipeline.querying.period import Period
from cutbank.pipeline.querying.tables import Table, anomalies_table, errors_table
from cutbank.pipeline.querying.taking import Progress, Request, Taken, Trouble, take

__all__ = [
    "Database",
    "Limits",
    "Period",
    "Progress",
    "Request",
    "Result",
    "Table",
    "Taken",
    "Trouble",
    "anomalies_table",
    "errors_table",
    "take",
]
