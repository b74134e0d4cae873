"""The run plan: what a coordinator proposes, what sites consent to. Spec: docs/spec/plan-1.md.

A plan is a TOML file for people and one canonical text for machines. Consent is to the digest of that text, so no part
of a plan can change during a run.
"""

import hashlib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import Field

from federation import canonical, strict_toml
from federation.adapter import Factor
from federation.canonical import Value
from federation.errors import FormatError, PlanError

VERSION = "wardround-plan/1"
SECURE_SITES_MIN = 3  # fewest updates in a masked sum
GROUP_SITES_MIN = 5  # in one of several masked sums, each of which is learned

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
Rate = Annotated[float, Field(gt=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, Field(min_length=1, max_length=400)]
Asked = Annotated[tuple[Line, ...], Field(min_length=3, max_length=7)]  # a question, its positive answer, the others
Target = Literal["attention", "shared_expert", "vision_attention", "vision_mlp", "projector"]


def colluding(sites: int) -> int:
    """c: so many sites of a masked round are assumed to work together with the coordinator."""
    return sites // 4


@dataclass(frozen=True)
class Run:
    __pydantic_config__ = strict_toml.STRICT
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    rounds: Annotated[int, Field(ge=1, le=10_000)]
    quorum: Annotated[int, Field(ge=0, le=10_000)] = 0  # fewest answers for a valid round; 0: every site
    deadline_s: Annotated[float, Field(gt=0, le=1_000_000)] = 3600.0


@dataclass(frozen=True)
class Model:
    __pydantic_config__ = strict_toml.STRICT
    path: Annotated[str, Field(min_length=1, max_length=400)]  # where the coordinator finds it; each site has its own
    sha256: Sha256 | None = None  # absent: the sites must have the same one
    family: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")] = "llama4"


@dataclass(frozen=True)
class AdapterPlan:
    __pydantic_config__ = strict_toml.STRICT
    method: Literal["fedavg", "ffa", "rolora", "stack"] = "fedavg"
    rank: Annotated[int, Field(ge=1, le=1024)] = 8
    alpha: Positive = 16.0
    targets: Annotated[tuple[Target, ...], Field(min_length=1, max_length=5)] = ("attention", "shared_expert")
    a_init: Literal["orthonormal", "kaiming", "svd"] = "orthonormal"

    def trained_factors(self, round_number: int) -> frozenset[Factor]:
        """What the sites train, clip, noise and send in this round; the other factor rests, bit for bit.

        `rolora` begins with B: while B is zero A has no gradient, and a round of A would send nothing but noise.
        """
        if self.method == "ffa" or (self.method == "rolora" and round_number % 2 == 1):
            return frozenset({"B"})
        return frozenset({"A"}) if self.method == "rolora" else frozenset({"A", "B"})

    def at_rank(self, rank: int) -> "AdapterPlan":
        """The same adapter for a site that trains fewer of its components; the scale alpha / rank stays."""
        return self if rank >= self.rank else replace(self, rank=rank, alpha=self.alpha * rank / self.rank)


@dataclass(frozen=True)
class Training:
    __pydantic_config__ = strict_toml.STRICT
    local_steps: Count = 10
    sampling_rate: Rate = 0.1
    learning_rate: Positive = 0.01
    optimizer: Literal["sgd", "adam", "dp-adambc"] = "dp-adambc"
    examples_per_patient: Count = 4
    turns_per_example: Annotated[int, Field(ge=0, le=1_000_000)] = 0  # of a conversation, at random; 0: all
    micro_batch_patients: Count = 8


@dataclass(frozen=True)
class Privacy:
    __pydantic_config__ = strict_toml.STRICT
    unit: Literal["patient", "none"] = "patient"
    target_epsilon: Annotated[float, Field(gt=0, le=100)] | None = None  # for the whole run; each site finds its noise
    noise_multiplier: Annotated[float, Field(ge=0.2, le=1e4)] | None = None
    delta: Annotated[float, Field(ge=1e-12, lt=1)] | None = None  # absent: 1/(10 × the site's declared patients)
    clipping: Literal["flat", "auto-s"] = "auto-s"
    clipping_norm: Positive = 1.0  # flat: the norm C; auto-s: the radius R
    noise: Literal["own", "shared"] = "own"  # shared: the sites add the noise of their masked sum together
    honest_sites: Annotated[int, Field(ge=2, le=128)] | None = None  # so many of them are counted on to add their share

    def __post_init__(self) -> None:
        chosen = sum(value is not None for value in (self.target_epsilon, self.noise_multiplier))
        if self.unit == "patient" and chosen != 1:
            raise ValueError("give exactly one of target_epsilon and noise_multiplier")
        if self.unit == "none" and (chosen or self.delta is not None):
            raise ValueError("a plan without privacy has no epsilon, noise or delta")
        if (self.noise == "shared") != (self.honest_sites is not None):
            raise ValueError("honest_sites is needed with noise = shared, and means nothing without")
        if self.noise == "shared" and self.noise_multiplier is None:
            raise ValueError("shared noise needs noise_multiplier: it has to be the same at every site")

    def sites_least(self, sites: int) -> int:
        """The fewest in a masked sum of a round of `sites`: those counted on for noise, and those who may collude."""
        return 0 if self.honest_sites is None else self.honest_sites + colluding(sites)


@dataclass(frozen=True)
class Aggregation:
    __pydantic_config__ = strict_toml.STRICT
    secure: bool = True  # the coordinator learns the sum of the updates only; three sites at least
    ring_bits: Annotated[int, Field(ge=8, le=32, multiple_of=8)] = 16  # of a masked number, at least
    group_size: Annotated[int, Field(ge=0, le=128)] = 0  # sites in a masked sum, at least; 0: one sum of all
    weights: Literal["inverse-noise-variance", "declared-patients", "equal"] = "inverse-noise-variance"
    robust: Literal["median-norm", "trimmed-mean", "multi-krum", "none"] | None = None  # absent: see `robust_rule`
    server_optimizer: Literal["mean", "momentum", "adam"] = "mean"
    server_learning_rate: Positive = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the mean of adapters that a run gives out; 0: the last
    max_update_rms: Positive = 1.0  # an update whose root mean square is larger is refused, by its site and by us
    metric_drop_max: Annotated[float, Field(ge=0, le=1)] = 0.05  # a round that lowers the sites' metric more is undone

    def __post_init__(self) -> None:
        if self.ring_bits == 24:
            raise ValueError("ring_bits is 8, 16 or 32")
        if 0 < self.group_size < GROUP_SITES_MIN:
            raise ValueError(f"group_size is 0 or at least {GROUP_SITES_MIN}: a sum of fewer hides too little")

    @property
    def robust_rule(self) -> str:
        """The rule against wrong updates, or against wrong groups. One masked sum has nothing to compare."""
        return self.robust or ("none" if self.secure and not self.group_size else "median-norm")


@dataclass(frozen=True)
class Evaluation:
    __pydantic_config__ = strict_toml.STRICT
    held_out_share: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    bootstrap: Annotated[int, Field(ge=0, le=100_000)] = 1000
    minimum_count: Annotated[int, Field(ge=1, le=100_000)] = 10
    free_text: bool = False
    validation_epsilon: Annotated[float, Field(gt=0, le=100)] | None = None  # of the looks at every round's candidate
    private_epsilon: Annotated[float, Field(gt=0, le=100)] | None = None  # of one release about held-out patients
    questions: Annotated[tuple[Asked, ...], Field(max_length=64)] = ()  # what they are about; public

    def __post_init__(self) -> None:
        if len({asked[:2] for asked in self.questions}) != len(self.questions):
            raise ValueError("a question is asked twice for the same answer")
        if any(len(set(asked[1:])) != len(asked) - 1 for asked in self.questions):
            raise ValueError("a question has an answer twice")
        for name in ("validation_epsilon", "private_epsilon"):
            if getattr(self, name) is not None and not (self.questions and self.held_out_share > 0):
                raise ValueError(f"{name} needs questions, and a held_out_share above 0")

    def held_out_patients(self, declared: int) -> float:
        """The public number that a sum over the held-out patients is divided by."""
        return self.held_out_share * declared


@dataclass(frozen=True)
class RunPlan:
    """A whole plan. Equal plans have equal digests, whatever the spelling of their TOML."""

    __pydantic_config__ = strict_toml.STRICT
    run: Run
    model: Model
    privacy: Privacy
    adapter: AdapterPlan = field(default_factory=AdapterPlan)
    training: Training = field(default_factory=Training)
    aggregation: Aggregation = field(default_factory=Aggregation)
    evaluation: Evaluation = field(default_factory=Evaluation)

    @property
    def total_steps(self) -> int:
        """Noisy steps of one site over the whole run."""
        return self.run.rounds * self.training.local_steps

    def value(self) -> dict[str, Value]:
        """Every key with its value, defaults included, real numbers as decimal text: what travels and is hashed."""
        sections = {item.name: _section_value(getattr(self, item.name)) for item in fields(self)}
        return {"version": VERSION, **sections}

    def canonical(self) -> bytes:
        return self._text

    def digest(self) -> str:
        """SHA-256 over the canonical text: what a site consents to."""
        return hashlib.sha256(self._text).hexdigest()

    @cached_property
    def _text(self) -> bytes:
        return canonical.dump(self.value())


def load_plan(path: Path) -> RunPlan:
    """The plan in this file. Raises: PlanError, with the key's name and what to do."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise PlanError("plan-absent", "the plan file cannot be read", hint="give the path of a plan.toml") from None
    except UnicodeDecodeError:
        raise PlanError("plan-not-toml", "the plan file is not UTF-8 text", hint="save it as UTF-8") from None
    return parse_plan(text)


def parse_plan(text: str) -> RunPlan:
    return _supported(strict_toml.parse(RunPlan, text, _refuse))


def plan_from_value(value: Value) -> RunPlan:
    """The opposite of `RunPlan.value`: refuses another version, and every other spelling of the same plan."""
    if not isinstance(value, Mapping) or value.get("version") != VERSION:
        raise PlanError("plan-unsupported", "a plan of another version", hint=f"this program reads {VERSION}")
    read = {name: section for name, section in value.items() if name != "version"}
    plan = _supported(strict_toml.check(RunPlan, _with_numbers(RunPlan, read), _refuse))
    if plan.canonical() != canonical.dump(value):
        raise PlanError("plan-value", "a plan is not in its canonical form", hint="every key must be present")
    return plan


def combinations(plan: RunPlan) -> Iterator[tuple[bool, str, str]]:
    """Keys that are fine alone and wrong together: whether they are here, what is wrong, what to do."""
    adapter, aggregation, quorum = plan.adapter, plan.aggregation, plan.run.quorum
    stack, secure, robust = adapter.method == "stack", aggregation.secure, aggregation.robust_rule
    yield (
        stack and secure,
        "stack needs every site's update in the clear, and secure aggregation shows only their sum",
        "take method rolora, ffa or fedavg, or set [aggregation] secure = false",
    )
    size = aggregation.group_size
    yield (
        secure and not size and robust != "none",
        f"robust = {robust} looks at single updates, and secure aggregation shows only their sum",
        "leave robust out: the gate checks the sum; or set [aggregation] group_size",
    )
    yield (
        bool(size) and not secure,
        "group_size says how many sites are masked together, and secure aggregation is off",
        "leave group_size out, or set [aggregation] secure = true",
    )
    yield (
        0 < quorum < size,
        "the quorum is below group_size, and no smaller group is ever opened",
        "set [run] quorum to group_size or more, or to 0",
    )
    yield (
        stack and robust in ("trimmed-mean", "multi-krum"),
        f"robust = {robust} compares matrices number by number, and under stack each site has its own basis",
        "take robust = median-norm or none",
    )
    yield (
        stack and (aggregation.server_optimizer != "mean" or aggregation.server_learning_rate != 1.0),
        "stack makes new matrices each round: a server optimiser has nothing that lasts to move",
        "set server_optimizer = mean and server_learning_rate = 1.0",
    )
    yield (
        stack and aggregation.ema_decay > 0,
        "stack makes new matrices each round: a mean of them over the rounds is no adapter",
        "set ema_decay = 0",
    )
    for rule, means in (("trimmed-mean", 3), ("multi-krum", 5)):
        fewest = means * max(1, size)
        yield (
            robust == rule and quorum < fewest,
            f"robust = {rule} leaves updates out, so it needs a quorum of at least {fewest}",
            f"set [run] quorum = {fewest} or more, or take robust = median-norm",
        )
    yield from _shared_combinations(plan)


def _shared_combinations(plan: RunPlan) -> Iterator[tuple[bool, str, str]]:
    """What does not go together with noise that the sites share."""
    shared, quorum = plan.privacy.noise == "shared", plan.run.quorum
    yield (
        shared and not plan.aggregation.secure,
        "shared noise protects the sum only, and without secure aggregation every update is seen",
        "set [aggregation] secure = true, or [privacy] noise = own",
    )
    yield (
        shared and bool(plan.aggregation.group_size),
        "every group's sum is opened, and shared noise is that of one sum of all",
        "leave group_size out, or set [privacy] noise = own",
    )
    yield (
        shared and (plan.training.local_steps != 1 or plan.training.optimizer != "sgd"),
        "with shared noise only the masked sum is private, so a site takes one plain step in each round",
        "set [training] local_steps = 1 and optimizer = sgd; the server's optimizer is free",
    )
    yield (
        0 < quorum < plan.privacy.sites_least(quorum),
        f"a quorum of {quorum} does not hold honest_sites and the fourth of all sites that may collude",
        f"lower honest_sites to {quorum - colluding(quorum)} or less, or raise [run] quorum",
    )


def _supported(plan: RunPlan) -> RunPlan:
    if plan.aggregation.secure and 0 < plan.run.quorum < SECURE_SITES_MIN:
        raise PlanError(
            "plan-unsupported",
            "secure aggregation needs a quorum of three: a sum of two tells each site the other's update",
            hint="set run.quorum = 3 or more, or [aggregation] secure = false",
        )
    if len(set(plan.adapter.targets)) != len(plan.adapter.targets):
        raise PlanError("plan-value", "adapter.targets names a target twice", hint="name each target once")
    for forbidden, message, hint in combinations(plan):
        if forbidden:
            raise PlanError("plan-combination", message, hint=hint)
    return plan


def _refuse(kind: str, message: str, hint: str) -> PlanError:
    return PlanError(f"plan-{kind}", message, hint=hint)


def _section_value(section: Any) -> dict[str, Value]:
    return {item.name: _field_value(getattr(section, item.name)) for item in fields(section)}


def _field_value(value: Any) -> Value:
    if isinstance(value, float):
        return canonical.decimal(value)
    return [_field_value(item) for item in value] if isinstance(value, tuple) else value


def _with_numbers(kind: type[Any], read: Any) -> Any:
    """Decimal text back to numbers, exactly where a field is a real number; the strict reader refuses what is left."""
    if not isinstance(read, Mapping):
        return read
    hints: dict[str, Any] = get_type_hints(kind)
    out: dict[str, Any] = {}
    for name, value in read.items():
        wanted: Any = hints.get(name)
        if hasattr(wanted, "__dataclass_fields__"):
            out[name] = _with_numbers(wanted, value)
        elif _is_real(wanted) and value is not None:
            try:
                out[name] = canonical.number(value)
            except FormatError:
                raise PlanError(
                    "plan-value", f"{name} is not a decimal number", hint="see docs/spec/plan-1.md"
                ) from None
        else:
            out[name] = value
    return out


def _is_real(wanted: Any) -> bool:
    if get_origin(wanted) in (Union, types.UnionType):
        return any(_is_real(part) for part in get_args(wanted))
    return wanted is float
