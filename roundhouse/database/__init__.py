"""Where state lies: a SQLite file or a PostgreSQL, behind one narrow seam."""

from roundhouse.database.opening import examine, open_database
from roundhouse.database.place import Address, Place, named
from roundhouse.database.seam import Damaged, Database, Newer, Refused, Row, Schema, Transaction, Unavailable

__all__ = [
    "Address",
    "Damaged",
    "Database",
    "Newer",
    "Place",
    "Refused",
    "Row",
    "Schema",
    "Transaction",
    "Unavailable",
    "examine",
    "named",
    "open_database",
]
