"""One masked round as the coordinator drives it: five questions, and what is kept of the answers. secagg-1.md."""

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from federation import canonical, durable
from federation.canonical import Value
from federation.consent import Consent, patients_most
from federation.errors import FedError, FormatError, PlanError
from federation.messages import Answer, MaskedStage
from federation.plan import RunPlan
from federation.private_step import unit_of
from federation.secagg.ring import BYTE_SITES_MAX, Encoding, Shapes
from federation.secagg.server import MaskedSum, ServerRound
from server import gate
from server.record import MaskedRecord

# One question of this stage to each of these sites; the answers that fit, one at a time.
Ask = Callable[[MaskedStage, Mapping[str, Mapping[str, Value]]], Iterator[Answer]]

DEVIATIONS = 8.0  # a bound, in root mean squares of one site's update
BYTE_DEVIATIONS = 5.0  # in 8 bits, where room costs precision
FIRST_BOUND = 16.0  # in `max_update_rms`, where nobody knows a matrix's size; in 32 bits that costs no precision
NOISE_DEVIATIONS = 10.0  # beyond which no number of shared noise comes, whatever the size of the adapter
CLIPPED_MOST = 10  # of 10 000 coordinates; more, and the bounds of the next round are twice as wide


def masked_sum(
    this: ServerRound,
    ask: Ask,
    leave_out: Callable[[Answer, FedError], None],
    kept: "KeptRound",
) -> MaskedSum:
    """The five questions. A site whose answer fails is left out; what it hid is repaired by the others' shares.

    Raises: QuorumError or ProtocolError if the round cannot be finished; then nothing was learned of any update.
    """

    def stage(kind: MaskedStage, bodies: Mapping[str, Mapping[str, Value]], add: Callable[[Answer], None]) -> None:
        for answer in ask(kind, bodies):
            try:
                if answer.kind != kind:
                    raise FormatError("message-kind", "an answer of another kind", hint="compare the versions")
                add(answer)
            except FedError as error:
                leave_out(answer, error)
            del answer

    def add_masked(answer: Answer) -> None:
        if answer.payload is None:
            raise FormatError("secagg-out-of-range", "a masked answer without its vector", hint="compare the versions")
        this.add_masked(answer.site_id, answer.body, answer.payload)
        kept.vector(answer.site_id, answer.payload.data)

    # 0 ready: fresh keys, and everybody's commitment to the same model, plan and encoding
    begin = {"encoding": this.encoding.value()}
    stage("ready", dict.fromkeys(this.encoding.weights, begin), lambda a: this.add_ready(a.site_id, a.body))
    ready = this.close_ready()

    # 1 shares: every site's two secrets, in pieces that only the others can read
    stage("shares", dict.fromkeys(this.sites, {"ready": ready}), lambda a: this.add_shares(a.site_id, a.body))
    boxes = this.close_shares()

    # 2 masked: the vectors, added as they come; each alone looks random
    stage("masked", {site: {"boxes": boxes[site]} for site in this.peers}, add_masked)
    masked = this.close_masked()

    # 3 agree: the survivors sign who is in the sum
    stage("agree", dict.fromkeys(this.survivors, {"masked": masked}), lambda a: this.add_agree(a.site_id, a.body))
    agreed = this.close_agree()

    # 4 unmask: the pieces that remove the masks of this one sum
    stage("unmask", dict.fromkeys(this.survivors, {"agree": agreed}), lambda a: this.add_unmask(a.site_id, a.body))
    return this.result()


def encoding_for(
    plan: RunPlan,
    shapes: Shapes,
    weights: Mapping[str, int],
    consents: Mapping[str, Consent],
    before: MaskedRecord | None,
) -> Encoding:
    """The round's public encoding: bounds from the last mean's own size, wide enough for the noisiest site.

    | known of a matrix                     | its bound                                         | bits          |
    |---------------------------------------|---------------------------------------------------|---------------|
    | its size in an earlier mean           | some root mean squares of the largest site        | the plan's    |
    | clipping, noise and steps of sgd only | the same of what they allow (`_most_by_the_plan`) | at least 16   |
    | nothing                               | what no update within `max_update_rms` meets      | 32            |

    Where the sites share the noise, their whole numbers are added as they are: in 32 bits, without a bound.
    docs/spec/secagg-1.md, section 5.
    """
    shared = next(iter(consents.values())).terms
    if shared is not None and shared.shared is not None:
        return Encoding(32, shapes, {}, weights, unit_of(plan, shared.shared))
    seen = {} if before is None else before.rms
    known = {name: seen[name] for name in shapes if seen.get(name, 0) > 0}
    told = {name: _most_by_the_plan(plan, math.prod(shapes[name]), weights, consents) for name in shapes}
    bits = plan.aggregation.ring_bits
    if bits == 8 and len(weights) > BYTE_SITES_MAX or len(known) < len(shapes):
        bits = max(bits, 16)
    if any(name not in known and not told[name] for name in shapes):
        bits = 32
    widen = 1 if before is None else before.widen
    reach = (BYTE_DEVIATIONS if bits == 8 else DEVIATIONS) * widen
    ratio, widest = _largest_over_mean(weights, consents), FIRST_BOUND * plan.aggregation.max_update_rms
    sizes = {name: ratio * known[name] if name in known else told[name] for name in shapes}
    return Encoding(bits, shapes, {name: min(widest, reach * size or widest) for name, size in sizes.items()}, weights)


def require_room(plan: RunPlan, consents: Mapping[str, Consent]) -> None:
    """Whether whole sums with shared noise fit into 32 bits: all drawn patients pulling at one number, and the noise.

    Before anybody trains: what wraps around is private all the same, and no mean of anything.
    """
    terms = next(iter(consents.values())).terms
    if terms is None or terms.shared is None:
        return
    rate = plan.training.sampling_rate
    drawn = gate.drawn_most(sum(rate * patients_most(consent.declared_patients) for consent in consents.values()))
    noise = NOISE_DEVIATIONS * math.sqrt(len(consents) * terms.shared.share_variance(terms.noise_multiplier))
    if drawn * 2.0**terms.shared.grid_bits + noise >= 2.0**31:
        raise PlanError(
            "plan-combination",
            "the sums of so many patients, with shared noise, do not fit into 32 bits",
            hint="lower training.sampling_rate, or set [privacy] noise = own",
        )


def record_of(found: MaskedSum, encoding: Encoding, before: MaskedRecord | None) -> MaskedRecord:
    """What the next round needs to know of this one, and who is suspected of what."""
    rms = {
        name: math.sqrt(float((array.astype("f8") ** 2).mean())) for name, array in found.decoded.mean.arrays.items()
    }
    widen = 1 if before is None else before.widen
    too_many = found.decoded.clipped > CLIPPED_MOST * len(found.survivors)
    return MaskedRecord(
        bits=encoding.bits,
        clipped=found.decoded.clipped,
        widen=widen * 2 if too_many else widen,
        rms=({} if before is None else dict(before.rms)) | rms,
        suspects=found.suspects,
    )


class KeptRound:
    """What an auditor needs: the transcript of every masked sum, and the masked vectors of the last round."""

    def __init__(self, folder: Path, round_number: int, *, group: int = 0) -> None:
        """`group` counts from 1; 0 if all sites are in one sum."""
        self._folder = folder / "masked"
        self._name = transcript_name(round_number, group)
        self._vectors = self._folder / "vectors"

    def begin(self) -> None:
        """The vectors of the round before go; nobody can open them, but they are large."""
        shutil.rmtree(self._vectors, ignore_errors=True)
        self._vectors.mkdir(parents=True)

    def vector(self, site_id: str, data: bytes) -> None:
        """Not synced: after a crash the round is closed, and there is nothing to recompute."""
        (self._vectors / f"{site_id}.vector").write_bytes(data)

    def transcript(self, value: Value) -> None:
        durable.write(self._folder / self._name, [canonical.dump(value)])


def transcript_name(round_number: int, group: int) -> str:
    return f"{round_number:05}-{group:03}.json" if group else f"{round_number:05}.json"


def _largest_over_mean(weights: Mapping[str, int], consents: Mapping[str, Consent]) -> float:
    """The largest noise of one site over that of the weighted mean, from the declared terms; √n for equal sites."""
    noise = {site: _noise(consents[site]) for site in weights}
    mean = math.sqrt(sum((weights[site] * noise[site]) ** 2 for site in weights)) / sum(weights.values())
    return max(noise.values()) / mean


def _most_by_the_plan(plan: RunPlan, size: int, sites: Iterable[str], consents: Mapping[str, Consent]) -> float:
    """The root mean square that one site's update of a matrix can have; 0 if the plan does not say.

    sgd: a step moves it by at most lr · (n/D · C / sqrt(numbers) + s/D) with n = D drawn patients who all pull at this
    matrix only, and the noise s; the steps' noises add up in squares.
    """
    if plan.privacy.unit == "none" or plan.training.optimizer != "sgd":
        return 0.0
    rate, steps, norm = plan.training.learning_rate, plan.training.local_steps, plan.privacy.clipping_norm
    noise = max(_noise(consents[site]) for site in sites)
    return rate * norm * (steps / math.sqrt(size) + math.sqrt(steps) * noise)


def _noise(consent: Consent) -> float:
    if consent.terms is None:
        return 1.0
    return consent.terms.noise_multiplier / (consent.terms.sampling_rate * consent.declared_patients)


def latest(records: Sequence[MaskedRecord | None]) -> MaskedRecord | None:
    """The record of the last round that had a masked sum."""
    return next((record for record in reversed(records) if record is not None), None)
