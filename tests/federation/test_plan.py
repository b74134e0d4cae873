"""Plans: strict to read, one digest per plan."""

from dataclasses import replace

import pytest

from federation import canonical
from federation.errors import PlanError
from federation.plan import combinations, load_plan, parse_plan, plan_from_value

SMALLEST = """
[run]
name = "demo"
rounds = 3
[model]
path = "base"
[privacy]
target_epsilon = 3
"""


def refusal(text: str) -> PlanError:
    with pytest.raises(PlanError) as caught:
        parse_plan(text)
    return caught.value


def test_the_smallest_plan_gets_sensible_defaults():
    plan = parse_plan(SMALLEST)

    assert plan.privacy.unit == "patient" and plan.aggregation.weights == "inverse-noise-variance"
    assert plan.total_steps == 3 * plan.training.local_steps


def test_a_plan_comes_back_from_its_value():
    plan = parse_plan(SMALLEST)

    assert plan_from_value(canonical.load(plan.canonical())) == plan


def test_the_digest_is_that_of_the_meaning_not_of_the_spelling():
    assert parse_plan(SMALLEST.replace("= 3\n[", "= 3 # three\n[")).digest() == parse_plan(SMALLEST).digest()
    assert (
        parse_plan(SMALLEST.replace("target_epsilon = 3", "target_epsilon = 3.0")).digest()
        == parse_plan(SMALLEST).digest()
    )
    assert parse_plan(SMALLEST.replace("rounds = 3", "rounds = 4")).digest() != parse_plan(SMALLEST).digest()


def test_an_unknown_key_names_the_nearest_known_one():
    error = refusal(SMALLEST + "noise_multiplyer = 1.0")

    assert error.code == "plan-unknown-key" and "privacy.noise_multiplyer" in error.message
    assert "privacy.noise_multiplier" in error.hint
    assert "adapter" in refusal(SMALLEST + "[adaptor]\nrank = 8").hint


@pytest.mark.parametrize(
    "old, new",
    [
        ("rounds = 3", "rounds = 3.0"),
        ("rounds = 3", "rounds = true"),
        ("rounds = 3", 'rounds = "3"'),
        ("rounds = 3", "rounds = 0"),
        ("rounds = 3", ""),
        ("target_epsilon = 3", "target_epsilon = inf"),
        ("target_epsilon = 3", "target_epsilon = nan"),
        ("target_epsilon = 3", 'target_epsilon = "3"'),
        ("target_epsilon = 3", "target_epsilon = 0"),
        ("target_epsilon = 3", "target_epsilon = 3\nnoise_multiplier = 1.0"),
        ("target_epsilon = 3", ""),
        ("target_epsilon = 3", 'unit = "none"\ntarget_epsilon = 3'),
        ("target_epsilon = 3", 'unit = "image"'),
        ("target_epsilon = 3", "noise_multiplier = 0.1"),
        ("target_epsilon = 3", "target_epsilon = 1979-05-27"),
        ("target_epsilon = 3", 'target_epsilon = 3\n[adapter]\nmethod = "flora"'),
        ("target_epsilon = 3", 'target_epsilon = 3\n[aggregation]\nrobust = "median"'),
        ("target_epsilon = 3", 'target_epsilon = 3\n[adapter]\ntargets = ["attention", "attention"]'),
        ("target_epsilon = 3", 'target_epsilon = 3\n[adapter]\ntargets = ["router"]'),
        ('name = "demo"', 'name = "../demo"'),
        ("[privacy]\ntarget_epsilon = 3", ""),
    ],
)
def test_a_value_that_is_not_exactly_right_is_refused(old, new):
    assert refusal(SMALLEST.replace(old, new)).code == "plan-value"


@pytest.mark.parametrize("quorum", [1, 2])
def test_secure_aggregation_is_the_default_and_needs_three(quorum):
    few = SMALLEST.replace("rounds = 3", f"rounds = 3\nquorum = {quorum}")
    error = refusal(few)

    assert parse_plan(SMALLEST).aggregation.secure
    assert error.code == "plan-unsupported" and "secure = false" in error.hint
    assert parse_plan(few + "[aggregation]\nsecure = false").run.quorum == quorum


@pytest.mark.parametrize("bits", ["4", "12", "24", "64", "16.0", '"16"'])
def test_a_ring_has_8_16_or_32_bits(bits):
    assert refusal(SMALLEST + f"[aggregation]\nring_bits = {bits}").code == "plan-value"


def test_groups_are_of_five_masked_sites_at_least_and_make_rules_possible():
    whole = SMALLEST.replace("[model]", "quorum = 15\n[model]") + "[aggregation]\n"
    grouped = parse_plan(whole + "group_size = 5").aggregation

    assert (grouped.group_size, grouped.robust_rule) == (5, "median-norm")
    assert parse_plan(whole + 'group_size = 5\nrobust = "trimmed-mean"').aggregation.robust == "trimmed-mean"
    for text, code in (
        ("group_size = 4", "plan-value"),
        ("group_size = 5\nsecure = false", "plan-combination"),
        ("group_size = 16", "plan-combination"),  # above the quorum
        ('group_size = 6\nrobust = "trimmed-mean"', "plan-combination"),  # three groups need eighteen
        ('group_size = 5\nrobust = "multi-krum"', "plan-combination"),
    ):
        assert refusal(whole + text).code == code


@pytest.mark.parametrize(
    "quorum, adapter, aggregation, says",
    [
        (3, 'method = "stack"', 'server_optimizer = "adam"', "server_optimizer = mean"),
        (3, 'method = "stack"', 'server_optimizer = "momentum"', "server_optimizer = mean"),
        (3, 'method = "stack"', "server_learning_rate = 0.5", "server_learning_rate = 1.0"),
        (3, 'method = "stack"', "ema_decay = 0.5", "ema_decay = 0"),
        (9, 'method = "stack"', 'robust = "trimmed-mean"', "robust = median-norm or none"),
        (9, 'method = "stack"', 'robust = "multi-krum"', "robust = median-norm or none"),
        (2, "", 'robust = "trimmed-mean"', "quorum = 3"),
        (0, "", 'robust = "trimmed-mean"', "quorum = 3"),
        (4, "", 'robust = "multi-krum"', "quorum = 5"),
    ],
)
def test_keys_that_do_not_go_together_are_refused_with_what_to_do(quorum, adapter, aggregation, says):
    whole = SMALLEST.replace("[model]", f"quorum = {quorum}\n[model]")
    error = refusal(f"{whole}[adapter]\n{adapter}\n[aggregation]\nsecure = false\n{aggregation}")

    assert error.code == "plan-combination" and says in error.hint


@pytest.mark.parametrize(
    "method, robust, wrong",
    [
        ("stack", None, True),
        ("stack", "none", True),
        ("fedavg", "median-norm", True),
        ("fedavg", "trimmed-mean", True),
        ("ffa", "multi-krum", True),
        ("rolora", None, False),
        ("fedavg", "none", False),
    ],
)
def test_what_needs_single_updates_does_not_go_with_secure_aggregation(method, robust, wrong):
    plan = parse_plan(SMALLEST)
    masked = replace(
        plan,
        run=replace(plan.run, quorum=5),
        adapter=replace(plan.adapter, method=method),
        aggregation=replace(plan.aggregation, secure=True, robust=robust),
    )
    found = [hint for forbidden, _, hint in combinations(masked) if forbidden]

    assert bool(found) == wrong and all(found)


def test_absent_the_rule_against_wrong_updates_is_the_median_norm_where_updates_can_be_seen():
    plan = parse_plan(SMALLEST + "[aggregation]\nsecure = false")

    assert plan.aggregation.robust_rule == "median-norm"
    assert replace(plan.aggregation, secure=True).robust_rule == "none"


def test_which_factors_are_trained_follows_from_the_method_and_the_round():
    plan = parse_plan(SMALLEST).adapter
    told = {
        method: ["".join(sorted(replace(plan, method=method).trained_factors(number))) for number in (1, 2, 3, 4)]
        for method in ("fedavg", "ffa", "rolora", "stack")
    }

    assert told["fedavg"] == told["stack"] == ["AB"] * 4
    assert told["ffa"] == ["B"] * 4 and told["rolora"] == ["B", "A", "B", "A"]


def test_an_adapter_at_a_lower_rank_has_the_same_scale():
    plan = parse_plan(SMALLEST).adapter

    assert plan.at_rank(2).alpha / 2 == plan.alpha / plan.rank and plan.at_rank(2).rank == 2
    assert plan.at_rank(64) is plan


def test_what_was_typed_is_not_repeated():
    error = refusal(SMALLEST.replace('"demo"', '"Secret Name"'))

    assert "Secret" not in error.message + error.hint


def test_a_value_with_a_missing_or_rewritten_key_is_refused():
    value = parse_plan(SMALLEST).value()
    del value["evaluation"]
    with pytest.raises(PlanError):
        plan_from_value(value)
    with pytest.raises(PlanError):
        plan_from_value({**parse_plan(SMALLEST).value(), "version": "wardround-plan/2"})
    with pytest.raises(PlanError):
        plan_from_value([])


@pytest.mark.parametrize("text", ["x = " + "[" * 3000 + "]" * 3000, "x = " + "9" * 5000, "x" + ".x" * 3000 + " = 1"])
def test_a_plan_that_nests_without_end_is_no_plan(text):
    with pytest.raises(PlanError) as refused:
        parse_plan(text)
    assert refused.value.code == "plan-not-toml" and "nests too deeply" in refused.value.message


def test_absent_and_unreadable_files_are_named_as_such(tmp_path):
    with pytest.raises(PlanError) as caught:
        load_plan(tmp_path / "absent.toml")
    assert caught.value.code == "plan-absent"
    assert refusal("[[").code == "plan-not-toml"
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PlanError) as caught:
        load_plan(tmp_path / "binary.toml")
    assert caught.value.code == "plan-not-toml"


SHARED = """
[run]
name = "demo"
rounds = 3
quorum = 6
[model]
path = "base"
[training]
local_steps = 1
optimizer = "sgd"
[privacy]
noise = "shared"
honest_sites = 4
noise_multiplier = 2.0
[aggregation]
secure = true
"""


def test_a_plan_can_share_the_noise_and_says_how_many_sites_are_counted_on():
    plan = parse_plan(SHARED)

    assert plan_from_value(plan.value()) == plan
    assert [plan.privacy.sites_least(sites) for sites in (6, 8, 12)] == [5, 6, 7]
    assert parse_plan(SMALLEST).privacy.sites_least(8) == 0


@pytest.mark.parametrize(
    "old, new, code",
    [
        ("secure = true", "secure = false", "plan-combination"),
        ("secure = true", "group_size = 5", "plan-combination"),
        ("secure = true", 'robust = "median-norm"', "plan-combination"),
        ("local_steps = 1", "local_steps = 2", "plan-combination"),
        ('"sgd"', '"adam"', "plan-combination"),
        ('"sgd"', '"dp-adambc"', "plan-combination"),
        ("honest_sites = 4", "honest_sites = 6", "plan-combination"),  # and one of six may collude
        ("[training]", '[adapter]\nmethod = "stack"\n[training]', "plan-combination"),
        ("honest_sites = 4", "honest_sites = 1", "plan-value"),
        ("honest_sites = 4", "", "plan-value"),
        ('"shared"', '"own"', "plan-value"),
        ("noise_multiplier = 2.0", "target_epsilon = 3.0", "plan-value"),
        ("noise_multiplier = 2.0", 'unit = "none"', "plan-value"),
    ],
)
def test_what_does_not_go_with_shared_noise_is_refused(old, new, code):
    assert old in SHARED and refusal(SHARED.replace(old, new)).code == code


def test_the_most_honest_sites_that_a_quorum_holds_are_allowed():
    assert parse_plan(SHARED.replace("honest_sites = 4", "honest_sites = 5")).privacy.honest_sites == 5
    assert parse_plan(SHARED.replace("quorum = 6", "quorum = 0")).run.quorum == 0  # counted when the sites are known
