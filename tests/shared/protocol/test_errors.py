"""The tree of errors: each class has a unique code on the wire, and is restored from it."""

import re

import pytest

from panoform.shared.protocol import errors


def error_classes(cls: type[errors.PanoformError] = errors.PanoformError) -> list[type[errors.PanoformError]]:
    """Return a class and all classes derived from it."""
    return [cls, *(found for child in cls.__subclasses__() for found in error_classes(child))]


def test_codes_are_distinct():
    codes = [cls.code for cls in error_classes()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("cls", error_classes())
def test_code_restores_the_class(cls):
    restored = errors.from_code(cls.code, "It broke.", "Mend it.")
    assert type(restored) is cls
    assert (restored.message, restored.hint, str(restored)) == ("It broke.", "Mend it.", "It broke. Mend it.")


def test_error_without_hint_is_its_message():
    assert str(errors.ModelError("It broke.")) == "It broke."


def test_unknown_code_gives_a_plain_error():
    restored = errors.from_code("from the future", "It broke.", "Mend it.")
    assert type(restored) is errors.PanoformError
    assert str(restored) == "It broke. Mend it."


def test_docstring_lists_all_classes():
    listed = re.findall(r"^[ │├└─]*([A-Z]\w+)", errors.__doc__.split("\n\n")[1], re.MULTILINE)
    # Other tests define further classes.
    assert listed == [cls.__name__ for cls in error_classes() if cls.__module__ == errors.__name__]
