"""`data.path` as one source or as a list of sources with shares and options."""

import pytest

from stvsr_jax.data.mixture import Source, parse_path


def test_a_plain_path_is_one_source():
    assert parse_path("pip") == (Source("pip"),)
    assert parse_path("/clips/a (1)/x, y") == (Source("/clips/a (1)/x, y"),)


def test_a_list_has_shares_and_options():
    text = ' ["a", ("b/c d", 2), ("layers:p", 0.5, {"speed": (0.5, 1), "time_stride": (1, 2)})]'
    assert parse_path(text) == (
        Source("a"),
        Source("b/c d", 2),
        Source("layers:p", 0.5, {"speed": (0.5, 1), "time_stride": (1, 2)}),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a, b]", "is not a list like"),
        ("['a'", "is not a list like"),
        ("[__import__('os')]", "is not a list like"),
        ("[]", "names no source"),
        ("[('a', 0)]", r"\('a', 0\).*share above 0"),
        ("[('a', 1e999)]", "share above 0"),
        ("[('', 1)]", "needs a path"),
        ("[('a', 'b')]", r"entry \('a', 'b'\)"),
        ("[('a', 1, {}, 2)]", "entry"),
        ("[3]", "entry 3"),
    ],
)
def test_other_lists_are_refused_by_name(text, message):
    with pytest.raises(ValueError, match=message):
        parse_path(text)
