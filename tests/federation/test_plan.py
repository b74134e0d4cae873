"""Plans: strict to read, one digest per plan."""

import pytest

from federation import canonical
from federation.errors import PlanError
from federation.plan import load_plan, parse_plan, plan_from_value

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
        ("target_epsilon = 3", 'target_epsilon = 3\n[adapter]\nmethod = "stack"'),
        ("target_epsilon = 3", 'target_epsilon = 3\n[adapter]\ntargets = ["attention", "attention"]'),
        ("target_epsilon = 3", 'target_epsilon = 3\n[adapter]\ntargets = ["router"]'),
        ('name = "demo"', 'name = "../demo"'),
        ("[privacy]\ntarget_epsilon = 3", ""),
    ],
)
def test_a_value_that_is_not_exactly_right_is_refused(old, new):
    assert refusal(SMALLEST.replace(old, new)).code == "plan-value"


def test_secure_aggregation_is_refused_until_it_exists():
    assert refusal(SMALLEST + "[aggregation]\nsecure = true").code == "plan-unsupported"


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


def test_absent_and_unreadable_files_are_named_as_such(tmp_path):
    with pytest.raises(PlanError) as caught:
        load_plan(tmp_path / "absent.toml")
    assert caught.value.code == "plan-absent"
    assert refusal("[[").code == "plan-not-toml"
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PlanError) as caught:
        load_plan(tmp_path / "binary.toml")
    assert caught.value.code == "plan-not-toml"
