"""Rows written in plain SQL, in the tables that every mail touches.

The ORM takes longer to write these statements than the database to run them. They are the same for SQLite and
PostgreSQL. Keys that the database makes are not handed back, and no conflict is looked for.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any

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


def update_where(
    model: type[models.Model], ids: Collection[Any], values: Mapping[str, Any], guards: Mapping[str, Collection[Any]]
) -> set[Any]:
    """Sets `values` in those of `ids` whose columns have one of the values in `guards`. Returns their ids."""
    if not ids:
        return set()
    by_stored = {_stored(model, "id", id): id for id in ids}
    columns = ", ".join(f"{name} = %s" for name in values)
    conditions = {"id": by_stored, **{name: [_stored(model, name, v) for v in guards[name]] for name in guards}}
    where = " AND ".join(f"{name} IN ({', '.join(['%s'] * len(conditions[name]))})" for name in conditions)
    parameters = [_stored(model, name, value) for name, value in values.items()]
    parameters += [value for allowed in conditions.values() for value in allowed]
    done = _run(f"UPDATE {model._meta.db_table} SET {columns} WHERE {where} RETURNING id", parameters)
    return {by_stored[id] for (id,) in done}


def update_each(model: type[models.Model], rows: Sequence[models.Model], names: Sequence[str]) -> None:
    """Writes the columns `names`, which are text, of rows that all have values of their own."""
    if not rows:
        return
    table = model._meta.db_table
    columns = ", ".join(f"{name} = new.column{n}" for n, name in enumerate(names, 2))
    places = ", ".join([f"({', '.join(['%s'] * (len(names) + 1))})"] * len(rows))
    values = [_stored(model, name, getattr(row, name)) for row in rows for name in ("id", *names)]
    _run(f"UPDATE {table} SET {columns} FROM (VALUES {places}) AS new WHERE {table}.id = new.column1", values)


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


def _stored(model: type[models.Model], name: str, value: Any) -> Any:
    value = value.value if isinstance(value, Enum) else value
    return model._meta.get_field(name).get_db_prep_save(value, connection)


def _run(statement: str, values: Sequence[Any]) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []
