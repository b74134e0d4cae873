"""site.toml: strict to read."""

import pytest

from client.settings import load_settings, parse_settings
from federation.errors import SettingsError

SMALLEST = """
[site]
id = "site-a"
[data]
store = "store"
secret = "secret"
declared_patients = 500
[policy]
epsilon_max = 3
"""


def refusal(text: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text)
    return caught.value


def test_the_defaults_are_the_strict_ones():
    policy = parse_settings(SMALLEST).policy

    assert policy.approve == "each-plan" and not policy.allow_without_privacy and policy.quorum_min == 2


def test_an_unknown_key_names_the_nearest_known_one():
    error = refusal(SMALLEST + "epsilon_maximum = 9")

    assert error.code == "settings-unknown-key" and "policy.epsilon_max" in error.hint


@pytest.mark.parametrize(
    "old, new",
    [
        ("epsilon_max = 3", "epsilon_max = inf"),
        ("epsilon_max = 3", 'epsilon_max = "3"'),
        ("epsilon_max = 3", "epsilon_max = 3\nsecure_required = 1"),
        ("epsilon_max = 3", "epsilon_max = 3\ndelta_max = 0.5"),
        ("epsilon_max = 3", 'epsilon_max = 3\nmodels = ["abc"]'),
        ("epsilon_max = 3", ""),
        ("declared_patients = 500", "declared_patients = 500.0"),
        ('id = "site-a"', 'id = "Site A"'),
    ],
)
def test_a_value_that_is_not_exactly_right_is_refused(old, new):
    assert refusal(SMALLEST.replace(old, new)).code == "settings-value"


@pytest.mark.parametrize("text", ["x = " + "[" * 3000 + "]" * 3000, "x = " + "9" * 5000, "x" + ".x" * 3000 + " = 1"])
def test_what_nobody_could_have_written_by_hand_is_refused_in_one_line(text):
    with pytest.raises(SettingsError) as refused:
        parse_settings(text)
    assert refused.value.code == "settings-value" and "nests too deeply" in refused.value.message


def test_an_absent_file_says_what_to_run(tmp_path):
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "site.toml")
    assert caught.value.code == "settings-absent"
