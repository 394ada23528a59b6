"""Names of machines, and what is wrong with one that there is not."""

import pytest

from kame_jax.errors import InputError
from kame_jax.plan.target import parse_target


@pytest.mark.parametrize(
    ("name", "topology", "devices"),
    [
        ("v5e:8x8", "v5e:8x8", 64),
        ("v5litepod-256", "v5e:16x16", 256),
        ("v5p-32", "v5p:2x2x4", 16),
        ("v6e-64", "v6e:8x8", 64),
        ("v4:2x2x4", "v4:2x2x4", 16),
        ("8xH100", None, 8),
        ("8xh200", None, 8),
    ],
)
def test_a_machine_has_many_names(name, topology, devices):
    target = parse_target(name)
    assert (target.topology, target.devices) == (topology, devices)
    assert parse_target(name, 3).devices == 3 * devices


def test_links_wrap_around_where_the_slice_is_whole():
    assert parse_target("v5e:16x16").bandwidth == 2 * parse_target("v5e:8x8").bandwidth
    assert parse_target("v5p:4x4x4").bandwidth == 2 * parse_target("v5p:2x4x4").bandwidth


@pytest.mark.parametrize("name", ["v5e", "v5e:8", "v9:8x8", "v5e-65", "8xV100", "8xv5e", "0xH100", ""])
def test_a_machine_that_there_is_not_is_refused(name):
    with pytest.raises(InputError, match="expected a TPU topology"):
        parse_target(name)


def test_no_slices_are_refused():
    with pytest.raises(InputError, match="--slices 0"):
        parse_target("v5e:8x8", 0)
