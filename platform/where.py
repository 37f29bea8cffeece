r"""Which pairs, for ``export --where`` and ``ingest --filter``: a small expression over their columns, evaluated by pyarrow.

    license_group == "comm" and min(width, height) > 336 and "truncated" not in flags
    text -- ast, a closed set of nodes --> Where: the columns it reads, and the rows of a table for which it is true

Nothing of Python is run. A comparison with a missing value is unknown, and unknown rows are left out.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from biomedray.errors import UserError
from biomedray.records import PAIR_SCHEMA

_BYTES = ("image", "image_copy")
COLUMNS = tuple(name for name in PAIR_SCHEMA.names if name not in _BYTES)

_COMPARE: dict[type[ast.cmpop], Callable[..., Any]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_ARITHMETIC: dict[type[ast.operator], Callable[..., Any]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: lambda a, b: pc.divide(pc.cast(a, pa.float64()), pc.cast(b, pa.float64())),
}
_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "min": (2, lambda *values: pc.min_element_wise(*values, skip_nulls=False)),
    "max": (2, lambda *values: pc.max_element_wise(*values, skip_nulls=False)),
    "len": (1, lambda value: pc.list_value_length(value) if pa.types.is_list(value.type) else pc.utf8_length(value)),
    "lower": (1, pc.utf8_lower),
}


class _UnfitError(ValueError):
    """A part of the expression that is not understood."""


@dataclass(frozen=True)
class Where:
    """A parsed expression."""

    text: str
    columns: tuple[str, ...]
    tree: ast.expr | None

    def mask(self, table: pa.Table) -> pa.BooleanArray:
        """True for each row of ``table`` that is wanted."""
        if self.tree is None:
            return pa.array(np.ones(table.num_rows, bool))
        value = _truth(self.tree, table)
        if isinstance(value, pa.Scalar):
            return pa.array([bool(value.as_py())] * table.num_rows, pa.bool_())
        return pc.fill_null(value, False)

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether one row, as a mapping of column to value (none: missing), is wanted."""
        schema = pa.schema([PAIR_SCHEMA.field(name) for name in self.columns] or [PAIR_SCHEMA.field(0)])
        table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names}], schema)
        return bool(self.mask(table)[0].as_py())

    def keep(self, table: pa.Table) -> pa.Table:
        """The rows that are wanted."""
        return table if self.tree is None else table.filter(self.mask(table))


def parse(text: str, name: str = "where") -> Where:
    """Read an expression; the empty one wants every row. ``name`` heads what is said of one that is off.

    Raises:
        UserError: it is not understood, names no column, or compares what can't be compared.
    """
    if not text.strip():
        return Where("", (), None)
    try:
        return _checked(text.strip())
    except SyntaxError:
        example = "license_group == 'comm' and width > 336"
        raise UserError(f"{name}: {text}: not an expression; write for example: {example}") from None
    except (_UnfitError, pa.ArrowException, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{name}: {text}: {str(error).splitlines()[0]}") from None


def _checked(text: str) -> Where:
    """Parsed, and tried on a table without rows, which finds what can't be compared."""
    tree = ast.parse(text, mode="eval").body
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(_FUNCTIONS)
    if strangers := sorted(names - set(COLUMNS)):
        raise _UnfitError(f"there is no column '{strangers[0]}'; there are {', '.join(COLUMNS)}")
    where = Where(text, tuple(sorted(names)), tree)
    where.mask(PAIR_SCHEMA.empty_table())
    return where


def _evaluate(node: ast.expr, table: pa.Table) -> Any:
    match node:
        case ast.Name(id=name):
            return _column(table, name)
        case ast.Constant(value=value) if isinstance(value, bool | int | float | str):
            return pa.scalar(value)
        case ast.BoolOp(op=op, values=values):
            join = pc.and_kleene if isinstance(op, ast.And) else pc.or_kleene
            return reduce(join, [_truth(value, table) for value in values])
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return pc.invert(_truth(operand, table))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return pc.negate(_evaluate(operand, table))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](_evaluate(left, table), _evaluate(right, table))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            least, function = _FUNCTIONS[name]
            if len(arguments) < least:
                raise _UnfitError(f"{name} wants {least} values")
            return function(*[_evaluate(argument, table) for argument in arguments])
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [left, *others]
            parts = [_compare(a, op, b, table) for a, op, b in zip(sides, ops, others, strict=False)]
            return reduce(pc.and_kleene, parts)
    raise _UnfitError(f"'{ast.unparse(node)}' is not understood")


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # pyarrow gives an empty table's column back as it was
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _truth(node: ast.expr, table: pa.Table) -> Any:
    value = _evaluate(node, table)
    if not pa.types.is_boolean(value.type):
        raise _UnfitError(f"'{ast.unparse(node)}' is not true or false")
    return value


def _compare(left: ast.expr, op: ast.cmpop, right: ast.expr, table: pa.Table) -> Any:
    if isinstance(op, ast.Is | ast.IsNot):
        if not (isinstance(right, ast.Constant) and right.value is None):
            raise _UnfitError("write 'is None' or 'is not None'")
        missing = pc.is_null(_evaluate(left, table))
        return missing if isinstance(op, ast.Is) else pc.invert(missing)
    if isinstance(op, ast.In | ast.NotIn):
        found = _contained(left, right, table)
        return found if isinstance(op, ast.In) else pc.invert(found)
    return _COMPARE[type(op)](_evaluate(left, table), _evaluate(right, table))


def _contained(left: ast.expr, right: ast.expr, table: pa.Table) -> Any:
    """``x in ["a", "b"]``, ``"truncated" in flags`` or ``"mouse" in caption``."""
    value = _evaluate(left, table)
    if isinstance(right, ast.List | ast.Tuple | ast.Set):
        choices = [_evaluate(element, table) for element in right.elts]
        return reduce(pc.or_kleene, [pc.equal(value, choice) for choice in choices], pa.scalar(False))
    whole = _evaluate(right, table)
    if not (isinstance(value, pa.StringScalar) and isinstance(whole, pa.Array)):
        raise _UnfitError("'in' wants a list on its right, or a text on its left and a column on its right")
    if pa.types.is_list(whole.type):
        return _has_element(whole, value)
    return pc.match_substring(whole, value.as_py())


def _has_element(lists: pa.ListArray, value: pa.Scalar) -> pa.BooleanArray:
    found = np.zeros(len(lists), bool)
    hits = pc.fill_null(pc.equal(lists.flatten(), value), False).to_numpy(zero_copy_only=False)
    found[pc.list_parent_indices(lists).to_numpy()[hits]] = True
    return pa.array(found)
