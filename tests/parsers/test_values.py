"""Values of flags."""

import argparse
from fractions import Fraction

import pytest

from stvsr_jax.parsers.values import one_of, parse_fraction, parse_rate, parse_shard, parse_size


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("60", 60),
        ("60000/1001", Fraction(60000, 1001)),
        ("59.94005994", Fraction(60000, 1001)),
        ("59.94", Fraction(60000, 1001)),
        ("29.97002997", Fraction(30000, 1001)),
        ("29.9700299", Fraction(30000, 1001)),
        ("23.976", Fraction(24000, 1001)),
        ("23.98", Fraction(24000, 1001)),
        ("119.88", Fraction(120000, 1001)),
        ("29.96", Fraction(2996, 100)),
        ("29.98", Fraction(2998, 100)),
        ("2997/100", Fraction(2997, 100)),
        ("12.5", Fraction(25, 2)),
        ("24.0", 24),
        ("0.1", Fraction(1, 10)),
        ("0.00001", Fraction(1, 100000)),
    ],
)
def test_rates_are_what_is_meant(text, rate):
    assert parse_rate(text) == rate


def test_sizes_are_given_as_width_and_height():
    assert parse_size("1280x720") == parse_size("1280X720") == (720, 1280)
    assert parse_shard("1/4") == (1, 4)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_size, "1280"),
        (parse_size, "1x2x3"),
        (parse_shard, "1"),
        (parse_fraction, "1/0"),
        (parse_rate, "1/0"),
        (parse_rate, "a"),
    ],
)
def test_what_is_no_value_is_told_with_an_example(parse, text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not .*, as "):
        parse(text)


def test_names_are_those_of_a_container_elsewhere():
    check = one_of("string", "digits")
    assert check("7") == "7" and check.list_names() == list("0123456789")
    with pytest.raises(argparse.ArgumentTypeError, match="'x' is not one of 0, 1, 2"):
        check("x")
