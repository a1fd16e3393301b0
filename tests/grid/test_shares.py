"""What a run may use of a cluster's nodes."""

import pytest

from kdutils.grid.ray_engine import Node, Share, room_for, share_of

CPU, GPU = Node(8, 0), Node(64, 8)


@pytest.mark.parametrize(
    ("nodes", "workers", "is_large", "share", "room"),
    [
        ([CPU], None, False, Share(1, 0), 8),
        ([CPU], None, True, Share(8, 0), 1),
        ([CPU, Node(16, 0)], None, True, Share(8, 0), 3),
        ([CPU], 2, True, Share(4, 0), 2),
        ([CPU], 3, True, Share(2, 0), 4),
        ([CPU], 16, False, Share(0.5, 0), 16),
        ([GPU, GPU], None, True, Share(8, 1), 16),
        ([GPU, GPU], None, False, Share(1, 1), 16),
        ([GPU, GPU, CPU, Node(0, 0)], None, True, Share(8, 1), 16),
        ([Node(2, 1)], 3, False, Share(0.6666, 0.3333), 3),
        ([GPU], 4, True, Share(8, 1), 8),
    ],
)
def test_a_share_fits_a_node(nodes, workers, is_large, share, room):
    assert share_of(nodes, workers=workers, is_large=is_large) == share
    assert room_for(share, nodes) == room


def test_threads_are_whole_and_at_least_one():
    assert [Share(cpus, 0).n_threads for cpus in (0.5, 1, 7.9)] == [1, 1, 7]


@pytest.mark.parametrize("nodes", [[], [Node(0, 4)]])
def test_a_cluster_without_a_core_is_refused(nodes):
    with pytest.raises(ValueError, match="no node with a core to give; start one with `ray start"):
        share_of(nodes, workers=None, is_large=False)
    assert room_for(Share(1, 0), nodes) == 0


@pytest.mark.parametrize(
    ("nodes", "is_large", "share", "room"),
    [
        ([GPU, GPU], True, Share(32, 4), 4),
        ([GPU, Node(16, 2), CPU], False, Share(1, 4), 2),
        ([CPU], False, Share(4, 0), 2),
        ([CPU], True, Share(8, 0), 1),
    ],
)
def test_a_run_on_several_devices_has_them_on_one_node(nodes, is_large, share, room):
    assert share_of(nodes, workers=None, is_large=is_large, n_devices=4) == share
    assert room_for(share, nodes) == room


def test_more_devices_than_a_node_has_are_refused():
    with pytest.raises(ValueError, match=r"devices=9 is more than any node has \(8 gpus\); use devices=8"):
        share_of([GPU, GPU, CPU], workers=None, is_large=True, n_devices=9)
