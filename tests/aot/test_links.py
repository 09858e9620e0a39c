"""Who takes part in a collective, and how long the links need."""

import pytest

from rmjax.aot import links
from rmjax.aot.chips import CHIPS
from rmjax.aot.hlo import Instruction
from rmjax.aot.links import Network


def grid(*sizes):
    return tuple((x, y) for y in range(sizes[1]) for x in range(sizes[0]))


E4 = Network(CHIPS["v5e"], (4, 4), grid(4, 4))
E16 = Network(CHIPS["v5e"], (16, 16), grid(16, 16))
GB = 1e9


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("replica_groups={{1,3},{0,2}}, x=1", (1, 3)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x=1", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x=1", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4,'c'=1] {'a','c'}, x=1", (0, 4)),
        ("channel_id=1", tuple(range(8))),
    ],
)
def test_groups(text, members):
    assert links.group(Instruction("a", "f32[]", "all-reduce", (), text), 8) == members


def test_rings_use_every_axis_that_the_group_spans():
    everyone = range(16)
    # A 4 x 4 slice of v5e is no torus: one link of 50 GB/s on each of two axes brings 15 of 16 parts.
    assert E4.seconds("all-gather", 16 * GB, everyone) == pytest.approx(15 / 100)
    assert E4.seconds("reduce-scatter", 16 * GB, everyone) == pytest.approx(15 / 100)
    assert E4.seconds("all-reduce", 16 * GB, everyone) == pytest.approx(30 / 100)
    assert E4.seconds("all-gather", 16 * GB, range(4)) == pytest.approx(12 / 50)
    # A 16 x 16 one is: two links on each axis.
    assert E16.seconds("all-gather", 16 * GB, range(16)) == pytest.approx(15 / 100)
    assert E16.seconds("all-gather", 256 * GB, range(256)) == pytest.approx(255 / 200)
    assert E4.seconds("all-reduce", GB, (3,)) == 0


@pytest.mark.parametrize(
    ("chip", "sizes", "rings"),
    [
        ("v5e", (8, 16), (False, True)),
        ("v6e", (8, 8), (False, False)),
        ("v5p", (4, 4, 8), (True, True, True)),
        ("v5p", (2, 4, 4), (False, False, False)),  # less than a cube: no link joins its ends
    ],
)
def test_which_axes_are_rings(chip, sizes, rings):
    assert CHIPS[chip].rings(sizes) == rings
    places = tuple((x, 0, 0)[: len(sizes)] for x in range(sizes[0]))
    line = Network(CHIPS[chip], sizes, places).rate(range(sizes[0]))
    assert line == CHIPS[chip].link * (2 if rings[0] else 1)


def test_what_is_sent_point_to_point_goes_over_the_fullest_link():
    assert E4.routed([(0, 1), (1, 2), (2, 3)], 50 * GB) == pytest.approx(1)
    assert E4.routed([(3, 0)], 50 * GB) == pytest.approx(1)  # three hops one after the other, each busy for a second
    assert E4.routed([(0, 3), (1, 3)], 50 * GB) == pytest.approx(2)  # share a link
    assert E16.routed([(0, 15)], 50 * GB) == E16.routed([(15, 0), (0, 15)], 50 * GB)  # around the ring, both ways
    # All to all on a line of 4: 2 x 2 pairs cross the middle each way, a quarter of the bytes each.
    assert E4.seconds("all-to-all", 50 * GB, range(4)) == pytest.approx(4 / 4)
