"""docs/spec/vectors/secagg-1-vectors.json: what another implementation must get. Run as a program: writes it."""

import hashlib
import json
from pathlib import Path

import numpy as np

from federation.adapter import AdapterUpdate
from federation.privacy.keystream import KeyStream
from federation.secagg import bodies, masks, ring, shamir
from federation.secagg.bodies import STAGES

FILE = Path(__file__).parents[3] / "docs" / "spec" / "vectors" / "secagg-1-vectors.json"
SECRET = bytes(range(32))


def made(tools) -> dict:
    """Every vector, from the code."""
    shares = shamir.split(SECRET, threshold=3, count=5, stream=KeyStream(bytes(32)))
    vector = np.arange(6, dtype="<u2")
    masks.apply(vector, add=[bytes(32)], subtract=[SECRET])
    whole = tools.Round(4, seed=11)
    found = whole.run(gone={"masked": ["site-03"]})
    encodings = {}
    for bits in (16, 32):
        encoding = ring.Encoding(
            bits, {"m.lora_B.weight": (2, 3)}, {"m.lora_B.weight": 0.5}, {"a": 3, "b": 255, "c": 1}
        )
        update = AdapterUpdate({"m.lora_B.weight": np.array([[0, 0.25, -0.25], [0.5, -0.75, 1e-3]], np.float32)})
        integers = ring.encode(update, encoding, site_id="a", sites=("a", "b", "c"), rounding=KeyStream(bytes(32)))
        encodings[str(bits)] = {
            "update": update.arrays["m.lora_B.weight"].ravel().tolist(), "bound": 0.5, "weight": 3, "weights_sum": 259,
            "scale": repr(encoding.scale("m.lora_B.weight", ("a", "b", "c"))), "rounding_key": "00" * 32,
            "integers": integers.tolist(),
        }  # fmt: skip
    return {
        "derive": [
            {"secret": SECRET.hex(), "use": use, "fields": fields, "key": masks.derive(SECRET, use, *fields).hex()}
            for use, fields in (("self", ("ab" * 32, "site-a")), ("pair", ("ab" * 32, "site-a", "site-b")))
        ],
        "seal": {"key": SECRET.hex(), "content": "00" * 4, "box": masks.seal(SECRET, bytes(4)).hex()},
        "shamir": {
            "secret": SECRET.hex(), "threshold": 3, "coefficients_from": "AES-256-CTR under a key of zeros",
            "shares": [shamir.to_bytes(share).hex() for share in shares],
        },
        "mask": {"vector": list(range(6)), "add": "00" * 32, "subtract": SECRET.hex(), "result": vector.tolist()},
        "encode": encodings,
        "threshold": {str(n): bodies.threshold(n) for n in (3, 4, 5, 8, 10, 20, 100, 255)},
        "round": {
            "what": "four sites, the last silent from its vector on",
            "roster": {site: key.hex() for site, key in whole.roster.items()},
            "said": {stage: [b.signed for b in whole.server.accepted[stage].values()] for stage in STAGES},
            "encoding": whole.encoding.value(),
            "shapes": {name: list(shape) for name, shape in whole.encoding.shapes.items()},
            "roster_hash": whole.server._roster_hash,
            "vectors": {site: data.hex() for site, data in sorted(whole.vectors.items()) if site != "site-03"},
            "sum": whole.server._total.tolist(),
            "mean_digest": found.decoded.mean.digest(),
        },
    }  # fmt: skip


def plain(value):
    return json.loads(json.dumps(value, default=dict))


def test_the_code_makes_the_vectors_of_the_specification(tools):
    assert plain(made(tools)) == json.loads(FILE.read_text(encoding="ascii"))


def test_the_vectors_hang_together_by_plain_arithmetic():
    """The sum of the file's masked vectors without its masks, computed here by hand, is the file's sum."""
    told = json.loads(FILE.read_text(encoding="ascii"))["round"]
    signed = [dict(one["body"]) for one in told["said"]["ready"]]
    text = json.dumps(sorted(signed, key=lambda body: body["site"]), sort_keys=True, separators=(",", ":"))
    total = sum(np.frombuffer(bytes.fromhex(data), "<u2").astype(np.int64) for data in told["vectors"].values())

    assert hashlib.sha256(text.encode()).hexdigest() == told["roster_hash"]
    assert ((total - np.array(told["sum"])) % 2**16 != 0).any(), "the masks of the survivors do not cancel alone"
    assert told["sum"][-5:-1] == [3, 3, 3, 3]


if __name__ == "__main__":
    import sys
    from types import SimpleNamespace

    sys.path.insert(0, str(Path(__file__).parent))
    import conftest

    FILE.parent.mkdir(exist_ok=True)
    whole = plain(made(SimpleNamespace(Round=conftest.Round)))
    FILE.write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n", encoding="ascii")
