"""XML documents from strangers."""

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from detcore.data.formats.fields import brief


def read_xml(path: Path, root: str) -> Element:
    """The root element of an XML file.

    Args:
        path: of the file.
        root: the name that it must have.

    Raises:
        ValueError: naming the file: it is missing, not well-formed, with line and column, in an unknown encoding, has
            another root, or declares a document type, the only door to entities, external or multiplying.
    """
    try:
        element = _parsed(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path}: does not exist") from None
    except (ValueError, LookupError, expat.ExpatError) as error:  # LookupError: an encoding nobody knows
        raise ValueError(f"{path}: {brief(error)}") from error
    if element.tag != root:
        raise ValueError(f"{path}: its root is <{element.tag[:40]}>, not <{root}>")
    return element


def _parsed(data: bytes) -> Element:
    def refuse(name: str, *_: object) -> None:
        raise ValueError(f"declares the document type {name!r}, which is not allowed")

    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(data, True)
    return builder.close()


def fragment(text: str) -> Element:
    """Elements without a root, below one made for them.

    Raises:
        ValueError: as `read_xml`.
    """
    try:
        return _parsed(f"<fragment>{text}</fragment>".encode())
    except (UnicodeError, expat.ExpatError) as error:
        raise ValueError(str(error)) from error


def attribute(element: Element, name: str) -> str:
    """The text of an attribute that must be there and not be empty."""
    value = element.get(name)
    if not value:
        raise ValueError(f"<{element.tag}> has no {name}")
    return value


def whole_number(text: str, what: str, *, most: int) -> int:
    """A number from 0 to `most`, in decimal digits; 720.0 counts as 720."""
    digits = text.strip().removesuffix(".0")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 20 or int(digits) > most:
        raise ValueError(f"{what} {text[:40]!r} is not a whole number from 0 to {most}")
    return int(digits)


def decimal(text: str, what: str) -> float:
    """A number; it may be infinite or not a number, which prepare drops and names."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{what} {text[:40]!r} is not a number") from None
