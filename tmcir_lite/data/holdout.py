"""Train parted into what is learned from and what choices are made on."""

import random
from collections.abc import Sequence
from typing import Any

from tmcir_lite.data.datasets import Split
from tmcir_lite.data.layouts import Triplet
from tmcir_lite.io.files import InputError


def hold_out(split: Split, share: float, seed: int) -> tuple[list[Triplet], list[Triplet]]:
    """Parts the triplets in (kept, held out) so that no image is a reference or a target in both.

    Triplets that share an image, or (CIRR) an img_set, hang together; such clusters are drawn at random until `share`
    of the triplets is reached, never more. A cluster that would overshoot is passed over: CIRR has one that holds most
    of a split. The same split, share and seed give the same parts; both keep the split's order.

    Raises:
        InputError: less than half of what was asked for can be had, because the clusters are too large.
    """
    clusters = _clusters(split.triplets)
    random.Random(seed).shuffle(clusters)
    wanted = round(share * len(split.triplets))
    held: set[int] = set()
    for cluster in clusters:
        if len(held) + len(cluster) <= wanted:
            held.update(cluster)
    if not held or 2 * len(held) < wanted:
        raise InputError(
            f"data.heldout: {share}: of the {wanted} triplets asked for, {len(held)} can be kept aside without sharing"
            f" an image with the rest ({split.root}, {len(split.triplets)} triplets); choose another share"
        )
    parts: tuple[list[Triplet], list[Triplet]] = ([], [])
    for index, triplet in enumerate(split.triplets):
        parts[index in held].append(triplet)
    return parts


def _clusters(triplets: Sequence[Triplet]) -> list[list[int]]:
    """Indices of triplets that hang together through shared images or img_sets (connected components)."""
    parent: dict[Any, Any] = {}

    def find(node: Any) -> Any:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for triplet in triplets:
        for node in (triplet.target_name, frozenset(triplet.group_members)):
            if node:
                parent[find(node)] = find(triplet.reference_name)
    clusters: dict[Any, list[int]] = {}
    for index, triplet in enumerate(triplets):
        clusters.setdefault(find(triplet.reference_name), []).append(index)
    return list(clusters.values())
