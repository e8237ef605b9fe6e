"""The types that a notebook's parameters can have, read from their annotations.

An annotation is read into a tuple, its first item a kind: ``("int",)``, ``("list", ("str",))``,
``("dict", ("float",))``, ``("literal", "a", "b")``, ``("union", ("int",), ("none",))`` or ``("any",)``.
"""

from __future__ import annotations

import ast
from typing import Any

from sundial.errors import ParameterError
from sundial.syntax import parse_expression

Annotation = tuple[Any, ...]
SCALARS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "True or False"}
ANY: Annotation = ("any",)
NONE: Annotation = ("none",)


def read_annotation(node: ast.expr, where: str) -> Annotation:
    """Read an annotation from the source of a parameters cell.

    Parameters
    ----------
    node : ast.expr
        The annotation.
    where : str
        Notebook and parameter, for the error.

    Returns
    -------
    Annotation

    Raises
    ------
    ParameterError
        When it is not one of str, int, float, bool, list, dict, Optional, Union, Literal, Any and None.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):  # a quoted annotation
        return read_annotation(parse_expression(node.value), where)
    if isinstance(node, ast.Constant) and node.value is None:
        return NONE
    name = _name_of(node)
    if name in SCALARS:
        return (name,)
    if name in ("list", "List"):
        return ("list", ANY)
    if name in ("dict", "Dict"):
        return ("dict", ANY)
    if name == "Any":
        return ANY
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return ("union", read_annotation(node.left, where), read_annotation(node.right, where))
    if isinstance(node, ast.Subscript):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        match _name_of(node.value), len(inner):
            case "Optional", 1:
                return ("union", read_annotation(inner[0], where), NONE)
            case "Union", _:
                return ("union", *(read_annotation(item, where) for item in inner))
            case "list" | "List", 1:
                return ("list", read_annotation(inner[0], where))
            case "dict" | "Dict", 2 if _name_of(inner[0]) == "str":
                return ("dict", read_annotation(inner[1], where))
            case "Literal", _:
                return ("literal", *(ast.literal_eval(item) for item in inner))
    raise ParameterError(
        f"{where} is annotated {ast.unparse(node)}, which a parameter cannot be",
        hint="use str, int, float, bool, list[...], dict[str, ...], Optional[...] or Literal[...]",
    )


def infer_annotation(default: Any) -> Annotation:
    """Give the annotation of a parameter that has none, from its default."""
    if default is None:
        return ANY
    name = type(default).__name__
    return (name, ANY) if name in ("list", "dict") else (name,)


def fits(value: Any, annotation: Annotation) -> bool:
    """Tell whether a value is one that an annotation allows.

    Examples
    --------
    >>> fits(3, ("float",)), fits(True, ("int",)), fits(["a"], ("list", ("int",)))
    (True, False, False)
    """
    match annotation:
        case ("any",):
            return True
        case ("none",):
            return value is None
        case ("float",):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ("int",):
            return isinstance(value, int) and not isinstance(value, bool)
        case ("union", *choices):
            return any(fits(value, choice) for choice in choices)
        case ("literal", *choices):
            return any(value == choice and type(value) is type(choice) for choice in choices)
        case ("list", inner):
            return isinstance(value, list) and all(fits(item, inner) for item in value)
        case ("dict", inner):
            return isinstance(value, dict) and all(fits(item, inner) for item in value.values())
    return bool(type(value).__name__ == annotation[0])


def describe(annotation: Annotation) -> str:
    """Put an annotation into words, for an error.

    Examples
    --------
    >>> describe(("union", ("list", ("int",)), ("none",)))
    'a list (each a whole number) or None'
    """
    match annotation:
        case ("any",):
            return "anything"
        case ("none",):
            return "None"
        case ("union", *choices):
            return " or ".join(describe(choice) for choice in choices)
        case ("literal", *choices):
            return "one of " + ", ".join(repr(choice) for choice in choices)
        case ("list", inner):
            return "a list" if inner == ANY else f"a list (each {describe(inner)})"
        case ("dict", inner):
            return "a dict" if inner == ANY else f"a dict (each {describe(inner)})"
    return SCALARS.get(str(annotation[0]), str(annotation[0]))


def _name_of(node: ast.expr) -> str:
    """Give the last name of a dotted annotation, such as Optional of typing.Optional."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
