"""Which number format a device gets."""

import pytest

from stvsr_jax.inference import number_format


@pytest.mark.parametrize(
    ("name", "platform", "expected"),
    [
        ("auto", "gpu", "float16"),
        ("auto", "cuda", "float16"),
        ("auto", "tpu", "bfloat16"),
        ("auto", "cpu", "float32"),
        ("float32", "gpu", "float32"),
        ("float16", "cpu", "float16"),
    ],
)
def test_the_number_format_follows_the_device_unless_it_is_named(name, platform, expected):
    assert number_format.choose_dtype(name, platform) == expected
    assert expected in number_format.DTYPES
