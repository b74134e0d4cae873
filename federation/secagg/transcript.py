"""From what was signed and the masked vectors, anyone recomputes the mean bit for bit. secagg-1.md, section 7."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from federation.canonical import Value
from federation.errors import FormatError, ProtocolError
from federation.messages import Payload
from federation.secagg.bodies import PROTOCOL, STAGES, RoundId, not_canonical
from federation.secagg.ring import Encoding
from federation.secagg.server import MaskedSum, ServerRound


def recompute(transcript: Value, roster: Mapping[str, bytes], vector_of: Callable[[str], bytes]) -> MaskedSum:
    """The sum that this transcript and these masked vectors make, by the coordinator's own code.

    Guarantees: a return means that every message is signed by its site and fits the round, that the survivors agreed,
    and that the mean has the digest that the transcript names.
    Raises: FedError with the code of the first thing that is wrong; `secagg-digest-mismatch` for another result.
    """
    match transcript:
        case {
            "version": version,
            "run": str(run_id),
            "round": int(round_number),
            "plan": str(plan_digest),
            "inputs": str(inputs),
            "encoding": encoding,
            "shapes": dict(shapes),
            "result": str(result_digest),
            **said,
        } if version == PROTOCOL and set(said) == set(STAGES):
            pass
        case _:
            raise not_canonical()
    messages = {stage: _by_site(cast(Value, said[stage])) for stage in STAGES}
    read = {name: tuple(cast(Sequence[int], shape)) for name, shape in shapes.items()}
    made = Encoding.from_value(encoding, read)
    again = ServerRound(RoundId(run_id, round_number, plan_digest), roster, made, inputs=inputs, quorum=0)
    for site, signed in messages["ready"].items():
        again.add_ready(site, signed)
    again.close_ready()
    for site, signed in messages["shares"].items():
        again.add_shares(site, signed)
    again.close_shares()
    for site, signed in messages["masked"].items():
        again.add_masked(site, signed, Payload(vector_of(site)))
    again.close_masked()
    for site, signed in messages["agree"].items():
        again.add_agree(site, signed)
    again.close_agree()
    for site, signed in messages["unmask"].items():
        again.add_unmask(site, signed)
    found = again.result()
    if found.decoded.mean.digest() != result_digest:
        raise FormatError(
            "secagg-digest-mismatch", "the messages make another mean than the one recorded", hint="keep both"
        )
    return found


def _by_site(listed: Value) -> dict[str, Value]:
    """Signed bodies by the site that each names; two of one site are refused."""
    found: dict[str, Value] = {}
    for signed in listed if isinstance(listed, list) else ():
        match signed:
            case {"body": {"site": str(site)}} if site not in found:
                found[site] = signed
            case _:
                raise ProtocolError("secagg-second-answer", "two messages of one site and stage", hint="keep both")
    return found
