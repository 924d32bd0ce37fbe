"""Databases of older versions of ``SQLiteStore``'s file format, brought to this one."""

import sqlite3
import stat as stat_module

from joinfs.errors import CorruptStore, Unsupported
from joinfs.stores import sqlite_fields as fields

# What schema 2 has over schema 1: the index of metadata.
ADDED_IN_2 = ("entry_node", "field", "field_node")


def to_version_2(connection: sqlite3.Connection, statements: list[str], name: str) -> None:
    """Add the index of metadata to a database of schema 1, and fill it.

    Args:
        connection: In a transaction, so that after a failure the database is what it was.
        statements: The definitions of schema 2; those of ``ADDED_IN_2`` are carried out.
        name: What messages call the store.

    Raises:
        CorruptStore: Metadata in it cannot be read.
    """
    for statement in statements:
        if statement.split()[2] in ADDED_IN_2:
            connection.execute(statement)
    for node, metadata in connection.execute("SELECT id, metadata FROM node WHERE metadata IS NOT NULL"):
        try:
            fields.index(connection, node, metadata)
        except (ValueError, AttributeError, RecursionError, Unsupported) as error:
            raise CorruptStore(f"{name}: the metadata of node {node} is damaged") from error


def count_directories(connection: sqlite3.Connection) -> None:
    """Bring a database of schema 2 to schema 3, in which the link counts of directories are those of stat(2)."""
    connection.execute(
        "UPDATE node SET nlink = 2 + (SELECT count(*) FROM entry WHERE parent = node.id AND directory = 1)"
        f" WHERE mode & {0o170000} = {stat_module.S_IFDIR}"
    )
