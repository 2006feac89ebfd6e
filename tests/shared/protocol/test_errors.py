"""The error tree: every class has a name of its own on the wire, and comes back as itself."""

import re

import pytest

from panoform.shared.protocol import errors


def tree(cls: type[errors.PanoformError] = errors.PanoformError) -> list[type[errors.PanoformError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in tree(child))]


def test_codes_are_distinct():
    codes = [cls.code for cls in tree()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("cls", tree())
def test_an_error_is_raised_again_as_itself(cls):
    again = errors.from_code(cls.code, "It broke.", "Mend it.")
    assert type(again) is cls
    assert (again.message, again.hint, str(again)) == ("It broke.", "Mend it.", "It broke. Mend it.")


def test_an_error_without_a_hint_ends_with_its_message():
    assert str(errors.ModelError("It broke.")) == "It broke."


def test_an_unknown_code_is_still_an_error():
    again = errors.from_code("from the future", "It broke.", "Mend it.")
    assert type(again) is errors.PanoformError
    assert str(again) == "It broke. Mend it."


def test_the_drawing_shows_the_tree():
    drawn = re.findall(r"^[ │├└─]*([A-Z]\w+)", errors.__doc__.split("\n\n")[1], re.MULTILINE)
    # Other tests add kinds of their own.
    assert drawn == [cls.__name__ for cls in tree() if cls.__module__ == errors.__name__]
