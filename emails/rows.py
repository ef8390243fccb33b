"""Rows written in plain SQL, in the tables that every mail touches.

The ORM takes longer to write these statements than the database to run them. They are the same for SQLite and
PostgreSQL. Keys that the database makes are not handed back, and no conflict is looked for.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from operator import attrgetter
from typing import Any
from uuid import UUID

import orjson
from django.db import connection, models, transaction

# Fields whose Python values are what the database driver takes.
PLAIN = (models.CharField, models.TextField, models.IntegerField, models.FloatField)
FEW = 100  # rows: on PostgreSQL so many cost less in one round trip than by COPY


@dataclass(frozen=True)
class Statement:
    sql: str
    values: Sequence[Any]


def run(statements: Iterable[Statement]) -> list[set[UUID]]:
    """Runs them in their order; for each the ids that it returns.

    On PostgreSQL all share one round trip, and where no transaction is open, they are one (its manual, 54.2.2.1).
    """
    statements = list(statements)
    if connection.vendor == "postgresql" and statements:
        sql = "; ".join(statement.sql for statement in statements)
        values = [value for statement in statements for value in statement.values]
        with connection.cursor() as cursor:
            cursor.execute(sql, values)
            returned = [_ids(cursor)]
            while cursor.nextset():
                returned.append(_ids(cursor))
            return returned
    with connection.cursor() as cursor:
        return [_ids(cursor.execute(statement.sql, statement.values)) for statement in statements]


def _ids(cursor: Any) -> set[UUID]:
    rows = cursor.fetchall() if cursor.description else []
    return {id if isinstance(id, UUID) else UUID(id) for (id,) in rows}


def insert(*tables: Iterable[models.Model], along: Iterable[Statement] = ()) -> None:
    """Inserts rows, those of one model in each of `tables`, and runs the statements `along`, in one transaction."""
    every = [list(rows) for rows in tables]
    if connection.vendor == "postgresql" and sum(map(len, every)) <= FEW:
        run([*(statement for rows in every for statement in insertion(rows)), *along])
        return
    with transaction.atomic(savepoint=False), connection.cursor() as cursor:
        for table, columns, records in map(_prepared, every):
            if connection.vendor == "postgresql" and records:  # COPY costs the server half as much
                with connection.wrap_database_errors, cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                    for record in records:
                        copy.write_row(record)
            elif records:
                places = ", ".join(["%s"] * len(records[0]))
                cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", records)
        run(along)


def insertion(rows: Iterable[models.Model]) -> list[Statement]:
    """Inserts a few rows of one model, together with other statements; none where there are no rows."""
    table, columns, records = _prepared(rows)
    if not records:
        return []
    places = ", ".join([f"({', '.join(['%s'] * len(records[0]))})"] * len(records))
    values = [value for record in records for value in record]
    return [Statement(f"INSERT INTO {table} ({columns}) VALUES {places}", values)]


def update_where(
    model: type[models.Model], ids: Collection[UUID], values: Mapping[str, Any], guards: Mapping[str, Collection[Any]]
) -> Statement:
    """Sets `values` in those of `ids` whose columns have one of the values in `guards`, and returns their ids."""
    columns = ", ".join(f"{name} = %s" for name in values)
    conditions = {"id": ids, **guards}
    where = " AND ".join(f"{name} IN ({', '.join(['%s'] * len(allowed))})" for name, allowed in conditions.items())
    parameters = [_stored(model, name, value) for name, value in values.items()]
    parameters += [_stored(model, name, value) for name, allowed in conditions.items() for value in allowed]
    return Statement(f"UPDATE {model._meta.db_table} SET {columns} WHERE {where} RETURNING id", parameters)


def update_each(rows: Sequence[models.Model], names: Sequence[str]) -> list[Statement]:
    """Writes the columns `names`, which are text, of rows of one model; none where there are no rows."""
    if not rows:
        return []
    model = type(rows[0])
    table = model._meta.db_table
    columns = ", ".join(f"{name} = new.column{n}" for n, name in enumerate(names, 2))
    places = ", ".join([f"({', '.join(['%s'] * (len(names) + 1))})"] * len(rows))
    values = [_stored(model, name, getattr(row, name)) for row in rows for name in ("id", *names)]
    return [Statement(f"UPDATE {table} SET {columns} FROM (VALUES {places}) AS new WHERE {table}.id = column1", values)]


def addition(
    model: type[models.Model], keys: Sequence[str], counts: Mapping[tuple[int, ...], Mapping[str, int]]
) -> list[Statement]:
    """Adds numbers to the rows that `keys` tell apart, which are made where they don't exist."""
    names = sorted({name for numbers in counts.values() for name, number in numbers.items() if number})
    if not names:
        return []
    table = model._meta.db_table
    places = ", ".join([f"({', '.join(['%s'] * (len(keys) + len(names)))})"] * len(counts))
    sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in names)
    # In the order of their keys, as everybody: two that add to the same rows don't wait in a circle.
    values = [value for key in sorted(counts) for value in (*key, *(counts[key].get(name, 0) for name in names))]
    return [
        Statement(
            f"INSERT INTO {table} ({', '.join([*keys, *names])}) VALUES {places} "
            f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sums}",
            values,
        )
    ]


def _prepared(rows: Iterable[models.Model]) -> tuple[str, str, list[list[Any]]]:
    """The table's name, the columns' names, and the values of each row as the database driver takes them."""
    rows = list(rows)
    if not rows:
        return "", "", []
    values_of, others = _reader(type(rows[0]))
    records = [list(values_of(row)) for row in rows]
    for index, adapted in others:
        for record in records:
            if record[index] is not None:
                record[index] = adapted(record[index])
    table, columns = _names(type(rows[0]))
    return table, ", ".join(columns), records


def _fields(model: type[models.Model]) -> list[models.Field]:
    return [field for field in model._meta.concrete_fields if not isinstance(field, models.AutoField)]


@cache
def _reader(model: type[models.Model]) -> tuple[attrgetter, list[tuple[int, Callable[[Any], Any]]]]:
    """What takes the values from a row, and what adapts those that the database keeps in another form."""
    fields = _fields(model)
    others = [(index, _adapter(field)) for index, field in enumerate(fields) if not isinstance(field, PLAIN)]
    return attrgetter(*(field.attname for field in fields)), others


@cache
def _adapter(field: models.Field) -> Callable[[Any], Any]:
    """The field's get_db_prep_save, and for the commonest kinds the little that it does there."""
    kind = field.target_field if isinstance(field, models.ForeignKey) else field
    match kind:
        case models.JSONField():
            return lambda value: orjson.dumps(value).decode()
        case models.UUIDField():
            return (lambda value: value.hex) if connection.vendor == "sqlite" else (lambda value: value)
        case models.DateTimeField():
            return lambda value: connection.ops.adapt_datetimefield_value(value)
    return partial(field.get_db_prep_save, connection=connection)


@cache
def _names(model: type[models.Model]) -> tuple[str, list[str]]:
    """The table's and the columns' names, quoted: SQLite's and PostgreSQL's quotes are the same."""
    quote = connection.ops.quote_name
    return quote(model._meta.db_table), [quote(field.column) for field in _fields(model)]


def _stored(model: type[models.Model], name: str, value: Any) -> Any:
    value = value.value if isinstance(value, Enum) else value
    return value if value is None else _adapter(model._meta.get_field(name))(value)
