"""The masked sum is the plain integer sum of the survivors, whoever drops out; beyond the threshold there is none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import canonical
from federation.errors import FormatError, ProtocolError, QuorumError
from federation.secagg import ring, transcript
from federation.secagg.bodies import STAGES, threshold

STAGES_WITHOUT_VECTOR = ("agree", "unmask")


def expected(whole, survivors) -> np.ndarray:
    weight = sum(whole.weights[site] for site in survivors)
    bound = next(iter(whole.encoding.bounds.values()))  # the same for all: what is beyond is clipped
    held = {site: np.clip(whole.updates[site].flatten().astype("f8"), -bound, bound) for site in survivors}
    return sum(held[site] * whole.weights[site] for site in survivors) / weight


@st.composite
def dropouts(draw):
    """How many sites, and at which stage each of those that fail falls silent (None: never)."""
    count = draw(st.integers(3, 20))
    when = draw(st.lists(st.sampled_from([None, None, *STAGES]), min_size=count, max_size=count))
    return count, when


@given(dropouts(), st.sampled_from([8, 16, 32]), st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_whoever_drops_out_wherever_the_sum_is_exact_or_there_is_none(tools, pattern, bits, seed):
    count, when = pattern
    whole = tools.Round(count, bits=16 if count > ring.BYTE_SITES_MAX else bits, seed=seed)
    gone = {stage: [whole.ids[at] for at in range(count) if when[at] == stage] for stage in STAGES}

    def left(until: str) -> list[str]:
        lost = [site for stage in STAGES[: STAGES.index(until) + 1] for site in gone[stage]]
        return [site for site in whole.ids if site not in lost]

    sites, survivors = left("ready"), left("masked")
    enough = all(
        [
            len(sites) >= 3,
            *(len(left(stage)) >= max(threshold(len(sites)), 3) for stage in ("shares", "masked")),
            *(len(left(stage)) >= threshold(len(sites)) for stage in STAGES_WITHOUT_VECTOR),
        ]
    )
    if not enough:
        with pytest.raises((QuorumError, ProtocolError)):
            whole.run(gone=gone)
        return
    found = whole.run(gone=gone)

    assert found.survivors == tuple(survivors) and not found.suspects
    assert (whole.server._total == whole.plain_sum(survivors)).all()
    step = 1 / (min(whole.encoding.scale(name, sites) for name in whole.encoding.shapes))
    bound = step * len(survivors) / sum(whole.weights[site] for site in survivors)
    np.testing.assert_allclose(found.decoded.mean.flatten(), expected(whole, survivors), atol=bound + 1e-7)


@pytest.mark.parametrize("count", [3, 5, 10, 20])
@pytest.mark.parametrize("stage", STAGES[1:])
def test_as_many_as_the_table_allows_may_drop_out_at_once_and_not_one_more(tools, count, stage):
    fewest = threshold(count) if stage in STAGES_WITHOUT_VECTOR else max(threshold(count), 3)
    allowed = count - fewest
    whole = tools.Round(count)
    whole.run(gone={stage: whole.ids[:allowed]})
    one_more = tools.Round(count)

    assert (whole.server._total == whole.plain_sum(whole.server.survivors)).all()
    with pytest.raises((QuorumError, ProtocolError)):
        one_more.run(gone={stage: one_more.ids[: allowed + 1]})


def test_a_masked_vector_alone_says_nothing_of_its_update(tools):
    zeros = tools.Round(4, bits=16, seed=1)
    loud = tools.Round(4, bits=16, seed=2)
    both = []
    for whole, value in ((zeros, 0.0), (loud, 0.05)):
        shapes = {"m.lora_B.weight": (500, 100)}
        whole.encoding = ring.Encoding(16, shapes, dict.fromkeys(shapes, 0.05), whole.weights)
        whole.server = type(whole.server)(whole.round_id, whole.roster, whole.encoding, inputs=whole.inputs, quorum=3)
        update = {"m.lora_B.weight": np.full((500, 100), value, np.float32)}
        whole.updates = dict.fromkeys(whole.ids, type(whole.updates["site-00"])(update))
        whole.run()
        counts = np.bincount(np.frombuffer(whole.vectors["site-01"], np.uint8), minlength=256)
        both.append(((counts - counts.mean()) ** 2 / counts.mean()).sum())

    # χ² with 255 degrees of freedom: below 1e-6 that either is above 370.
    assert max(both) < 370


def test_anyone_recomputes_the_mean_bit_for_bit_from_the_transcript_and_the_vectors(tools):
    whole = tools.Round(7, seed=3)
    found = whole.run(gone={"masked": ["site-02"], "unmask": ["site-05"]})
    told = canonical.load(canonical.dump(whole.server.transcript(found.decoded.mean.digest())))
    again = transcript.recompute(told, whole.roster, lambda site: whole.vectors[site])

    assert again.survivors == found.survivors and again.sites == found.sites
    assert again.decoded.mean.digest() == found.decoded.mean.digest()


@pytest.mark.parametrize("place", [0, 100, -1])
def test_one_flipped_bit_of_a_kept_vector_is_found(tools, place):
    whole = tools.Round(4)
    told = whole.server
    found = whole.run()
    flipped = bytearray(whole.vectors["site-01"])
    flipped[place if abs(place) < len(flipped) else 3] ^= 1
    vectors = whole.vectors | {"site-01": bytes(flipped)}
    with pytest.raises(FormatError) as caught:
        transcript.recompute(told.transcript(found.decoded.mean.digest()), whole.roster, vectors.__getitem__)

    assert caught.value.code == "secagg-digest-mismatch"


def test_a_transcript_with_another_result_message_or_signature_is_found(tools):
    whole = tools.Round(4)
    found = whole.run()
    good = whole.server.transcript(found.decoded.mean.digest())

    def code(**changes):
        with pytest.raises((FormatError, ProtocolError, QuorumError)) as caught:
            transcript.recompute({**good, **changes}, whole.roster, whole.vectors.__getitem__)
        return caught.value.code

    assert code(result="00" * 32) == "secagg-digest-mismatch"
    assert code(inputs="00" * 32) == "secagg-inputs-differ"
    assert code(ready=good["ready"][:2]) == "secagg-roster-too-small"
    assert code(masked=[*good["masked"], good["masked"][0]]) == "secagg-second-answer"
    assert code(agree=[{**good["agree"][0], "signature": "00" * 64}]) == "secagg-bad-signature"
    assert code(round=2) == "secagg-wrong-context"
    assert code(more=1) == "secagg-not-canonical"
