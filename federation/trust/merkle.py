"""The Merkle tree of RFC 6962, section 2.1: roots, proofs of inclusion, proofs of consistency.

A root of 32 bytes stands for a whole log. A consistency proof shows that the log of an older root is the beginning of
the log of a newer one: nothing of it was changed, removed or put in between.
"""

import hashlib
from collections.abc import Sequence

EMPTY = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A growing tree: the roots of its whole subtrees, largest first. Appending costs a few hashes, a root as well."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[tuple[int, bytes]] = []  # (leaves below, root), sizes falling powers of two

    def append(self, leaf: bytes) -> None:
        """`leaf` is a leaf's hash."""
        size, root = 1, leaf
        while self._peaks and self._peaks[-1][0] == size:
            root = node_hash(self._peaks.pop()[1], root)
            size *= 2
        self._peaks.append((size, root))
        self.size += 1

    def root(self) -> bytes:
        if not self._peaks:
            return EMPTY
        root = self._peaks[-1][1]
        for _, left in reversed(self._peaks[:-1]):
            root = node_hash(left, root)
        return root


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over these leaf hashes."""
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes that lead from leaf `index` to the root. RFC 6962, section 2.1.1."""
    if len(leaves) <= 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*inclusion_proof(leaves[:split], index), root_of(leaves[split:])]
    return [*inclusion_proof(leaves[split:], index - split), root_of(leaves[:split])]


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """What shows that the first `old_size` leaves are the beginning of all of them. RFC 6962, section 2.1.2."""
    return _subproof(leaves, old_size, whole=True) if 0 < old_size < len(leaves) else []


def included(leaf: bytes, index: int, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof leads from the leaf to the root. RFC 9162, section 2.1.3.2."""
    if not 0 <= index < size:
        return False
    node, last, at = leaf, size - 1, index
    for sibling in proof:
        if last == 0:
            return False
        if at % 2 or at == last:
            node = node_hash(sibling, node)
            while at and not at % 2:
                at, last = at >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and node == root


def consistent(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the newer log begins with the older one. RFC 9162, section 2.1.4.2.

    | edge case                    | result                         |
    |------------------------------|--------------------------------|
    | the same size                | the roots must be equal        |
    | an empty older log           | it is the beginning of any log |
    | an older log that is longer  | refused                        |
    """
    if old_size == 0 or old_size == size:
        return not proof and (old_root == EMPTY if old_size == 0 else old_root == root)
    if old_size > size or not proof:
        return False
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    at, last = old_size - 1, size - 1
    while at % 2:
        at, last = at >> 1, last >> 1
    old, new = path[0], path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at % 2 or at == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while at and not at % 2:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and old == old_root and new == root


def _subproof(leaves: Sequence[bytes], old_size: int, *, whole: bool) -> list[bytes]:
    if old_size == len(leaves):
        return [] if whole else [root_of(leaves)]
    split = _split(len(leaves))
    if old_size <= split:
        return [*_subproof(leaves[:split], old_size, whole=whole), root_of(leaves[split:])]
    return [*_subproof(leaves[split:], old_size - split, whole=False), root_of(leaves[:split])]


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1
