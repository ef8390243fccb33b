"""Rows into their table in one go: `bulk_create` without what it does for each value, for tables that every mail fills.

Keys that the database makes are not handed back, and no conflict is looked for.
"""

from collections.abc import Iterable
from functools import cache
from operator import attrgetter

from django.db import connection, models

# Fields whose Python values are what the database driver takes.
PLAIN = (models.CharField, models.TextField, models.IntegerField, models.FloatField)


def insert(rows: Iterable[models.Model]) -> None:
    """Inserts rows of one model."""
    rows = list(rows)
    if not rows:
        return
    model = type(rows[0])
    values_of, others = _reader(model)
    records = [list(values_of(row)) for row in rows]
    for index, field in others:
        for record in records:
            if record[index] is not None:
                record[index] = field.get_db_prep_save(record[index], connection)
    table, columns = _names(model)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql" and len(records) > 1:  # COPY costs the server half as much
            with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
                for record in records:
                    copy.write_row(record)
        else:
            places = ", ".join(["%s"] * len(columns))
            cursor.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", records)


def _fields(model: type[models.Model]) -> list[models.Field]:
    return [field for field in model._meta.concrete_fields if not isinstance(field, models.AutoField)]


@cache
def _reader(model: type[models.Model]) -> tuple[attrgetter, list[tuple[int, models.Field]]]:
    """What takes the values from a row, and the fields whose values the database keeps in another form."""
    fields = _fields(model)
    others = [(index, field) for index, field in enumerate(fields) if not isinstance(field, PLAIN)]
    return attrgetter(*(field.attname for field in fields)), others


@cache
def _names(model: type[models.Model]) -> tuple[str, list[str]]:
    """The table's and the columns' names, quoted: SQLite's and PostgreSQL's quotes are the same."""
    quote = connection.ops.quote_name
    return quote(model._meta.db_table), [quote(field.column) for field in _fields(model)]
