"""The tree of RFC 6962: known roots, and proofs for every size up to 130."""

import hashlib

from federation.trust import merkle

# The reference leaves and roots of the certificate-transparency implementations.
LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
MANY = [merkle.leaf_hash(str(number).encode()) for number in range(130)]


def test_the_roots_are_the_published_ones():
    for size, root in enumerate(ROOTS):
        assert merkle.root_of([merkle.leaf_hash(leaf) for leaf in LEAVES[:size]]).hex() == root


def test_leaves_and_nodes_are_never_taken_for_each_other():
    assert merkle.leaf_hash(b"ab") != merkle.node_hash(b"a", b"b")
    assert merkle.leaf_hash(b"x") == hashlib.sha256(b"\0x").digest()


def test_inclusion_is_shown_for_every_leaf_and_refused_for_every_other():
    for size in (*range(1, 20), 64, 127, 130):
        leaves = MANY[:size]
        root = merkle.root_of(leaves)
        for index in range(size):
            proof = merkle.inclusion_proof(leaves, index)
            assert merkle.included(leaves[index], index, size, root, proof)
            assert not merkle.included(MANY[index - 1], index, size, root, proof)
            assert not merkle.included(leaves[index], index + size, size, root, proof)
            assert not proof or not merkle.included(leaves[index], index, size, root, proof[:-1])


def test_consistency_is_shown_for_all_sizes():
    roots = [merkle.root_of(MANY[:size]) for size in range(131)]
    for size in (*range(1, 34), 63, 64, 65, 128, 129, 130):
        for old in range(1, size + 1):
            proof = merkle.consistency_proof(MANY[:size], old)
            assert merkle.consistent(old, roots[old], size, roots[size], proof)


def test_a_changed_past_is_inconsistent():
    changed = [merkle.leaf_hash(b"changed"), *MANY[1:]]
    for old, size in ((1, 2), (3, 7), (8, 16), (64, 130)):
        proof = merkle.consistency_proof(changed[:size], old)
        assert not merkle.consistent(old, merkle.root_of(MANY[:old]), size, merkle.root_of(changed[:size]), proof)
    assert not merkle.consistent(5, merkle.root_of(MANY[:5]), 4, merkle.root_of(MANY[:4]), [])
    assert not merkle.consistent(4, merkle.root_of(MANY[:4]), 4, merkle.root_of(changed[:4]), [])
    assert not merkle.consistent(4, merkle.root_of(MANY[:4]), 8, merkle.root_of(MANY[:8]), [])


def test_a_growing_tree_has_the_root_of_the_whole():
    tree = merkle.Tree()
    for size, leaf in enumerate(MANY, start=1):
        tree.append(leaf)
        assert tree.root() == merkle.root_of(MANY[:size]) and tree.size == size
