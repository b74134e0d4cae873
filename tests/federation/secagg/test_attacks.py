"""A lying coordinator and a lying site. A site that is lied to stops, names the reason, and has no secret left."""

import pytest

from federation.errors import FedError
from federation.messages import Payload
from federation.secagg.bodies import Identity, RoundId, sign, threshold
from federation.trust.keys import SigningKey

VICTIM = "site-00"


def attacked(whole, **edits):
    """Run with edited questions; the round may end, or go on without the victim."""
    try:
        return whole.run(asked=edits)
    except FedError as error:
        return error.code


def only_for(victim, change):
    return lambda site, question: change(question) if site == victim else question


def test_a_key_put_in_place_of_a_sites_is_not_signed_by_it(tools):
    whole = tools.Round(5)
    mallory = Identity("site-03", SigningKey.from_seed(bytes(32)), whole.roster)

    def swap(bundle):
        own = {name: bundle[3]["body"][name] for name in ("mask_pk", "share_pk", "b_commit", "inputs")}
        return [*bundle[:3], sign("ready", whole.round_id, mallory, own | {"mask_pk": "ab" * 32}).signed, *bundle[4:]]

    attacked(whole, shares=only_for(VICTIM, swap))

    assert whole.aborted[VICTIM] == "secagg-bad-signature" and whole.nothing_revealed()


def test_an_invented_peer_is_on_nobodys_roster(tools):
    whole = tools.Round(5)
    ghost = Identity("site-99", SigningKey.from_seed(bytes(32)), whole.roster)

    def invent(bundle):
        own = {name: bundle[0]["body"][name] for name in ("mask_pk", "share_pk", "b_commit", "inputs")}
        return [*bundle, sign("ready", whole.round_id, ghost, own).signed]

    attacked(whole, shares=only_for(VICTIM, invent))

    assert whole.aborted[VICTIM] == "secagg-unknown-site" and whole.nothing_revealed()


def test_a_site_does_not_go_on_without_its_own_keys_in_the_round(tools):
    whole = tools.Round(6)
    attacked(whole, shares=only_for(VICTIM, lambda bundle: bundle[1:]))

    assert whole.aborted[VICTIM] == "secagg-own-key-replaced"


def test_a_roster_of_two_is_too_small_whatever_the_coordinator_says(tools):
    whole = tools.Round(5)
    attacked(whole, shares=only_for(VICTIM, lambda bundle: bundle[:2]))

    assert whole.aborted[VICTIM] == "secagg-roster-too-small" and whole.nothing_revealed()


def test_a_sites_own_policy_can_demand_more_than_three(tools):
    whole = tools.Round(5)
    whole.sites[VICTIM] = whole.site(VICTIM, quorum=5)
    attacked(whole, shares=only_for(VICTIM, lambda bundle: bundle[:4]))

    assert whole.aborted[VICTIM] == "secagg-roster-too-small"


def test_no_message_can_lower_the_threshold_because_none_carries_it(tools):
    whole = tools.Round(6)
    few = threshold(6) - 1
    attacked(whole, masked=only_for(VICTIM, lambda boxes: dict(list(boxes.items())[: few - 1])))

    assert whole.aborted[VICTIM] == "secagg-peers-too-few" and whole.nothing_revealed()


@pytest.mark.parametrize("fewer", [lambda n: threshold(n) - 1, lambda n: 2])
def test_a_shrunken_set_of_survivors_is_refused(tools, fewer):
    whole = tools.Round(6)
    attacked(whole, agree=only_for(VICTIM, lambda bundle: bundle[: fewer(6)]))

    assert whole.aborted[VICTIM] == "secagg-survivors-too-few" and whole.nothing_revealed()


def test_two_groups_that_are_shown_different_survivors_cannot_both_agree(tools):
    """Each half is shown a set without one site of the other half; neither set gathers a threshold of signatures."""
    whole = tools.Round(6)
    first, second = whole.ids[:3], whole.ids[3:]

    def split(site, bundle):
        hidden = second[0] if site in first else first[0]
        return [one for one in bundle if one["body"]["site"] != hidden]

    attacked(whole, agree=split)
    # whoever still holds secrets is now handed everything that was signed for its own view
    signed = {site: whole.sites[site]._own.get("agree") for site in whole.ids}
    for site, body in signed.items():
        if body is not None:
            view = [
                other.signed
                for other in signed.values()
                if other and other.value["survivors"] == body.value["survivors"]
            ]
            with pytest.raises(FedError) as caught:
                whole.sites[site].unmask(view)
            assert caught.value.code == "secagg-no-agreement"

    assert all("unmask" not in whole.sites[site]._own for site in whole.ids)


def test_agreements_about_other_survivors_are_a_split_view(tools):
    whole = tools.Round(5)
    survivors = whole.ids[:4]

    def other(bundle):
        fields = {"survivors": survivors}
        return [whole.resign(site, "agree", one, **fields) for site, one in zip(whole.ids, bundle, strict=True)]

    attacked(whole, unmask=only_for(VICTIM, other))

    assert whole.aborted[VICTIM] == "secagg-split-view" and whole.nothing_revealed()


def test_masked_messages_of_another_group_of_peers_are_a_split_view(tools):
    whole = tools.Round(5)

    def other(bundle):
        return [bundle[0], whole.resign("site-01", "masked", bundle[1], peers=whole.ids[:4]), *bundle[2:]]

    attacked(whole, agree=only_for(VICTIM, other))

    assert whole.aborted[VICTIM] == "secagg-split-view" and whole.nothing_revealed()


def test_its_own_vector_exchanged_or_left_out_is_noticed(tools):
    whole = tools.Round(5)
    attacked(
        whole,
        agree=only_for(
            VICTIM, lambda bundle: [whole.resign(VICTIM, "masked", bundle[0], vector="00" * 32), *bundle[1:]]
        ),
    )
    hidden = tools.Round(6)
    attacked(hidden, agree=only_for(VICTIM, lambda bundle: bundle[1:]))

    assert whole.aborted[VICTIM] == "secagg-digest-mismatch" and hidden.aborted[VICTIM] == "secagg-split-view"


def test_of_one_peer_never_both_secrets(tools):
    """Asked a second time, with a peer moved from the survivors to the dropouts, a site has nothing left to give."""
    whole = tools.Round(6)
    whole.run()
    agreed = [body.signed for body in whole.server.accepted["agree"].values()]
    own = whole.sites[VICTIM]
    first = own._own["unmask"]

    assert not set(first.value["seeds"]) & set(first.value["keys"])
    with pytest.raises(FedError) as caught:
        own.unmask(agreed)
    assert caught.value.code == "secagg-closed" and own._secrets is None


@pytest.mark.parametrize(
    "stage, again, code",
    [("masked", "shares", "secagg-second-answer"), ("agree", "masked", "secagg-second-answer"),
     ("agree", "ready", "secagg-second-answer"), ("shares", "unmask", "secagg-wrong-context"),
     ("masked", "agree", "secagg-wrong-context")],
)  # fmt: skip
def test_a_stage_asked_twice_or_out_of_order_ends_the_round(tools, stage, again, code):
    whole = tools.Round(6)
    seen = []

    def provoke(site, question):
        if site == VICTIM:
            with pytest.raises(FedError) as caught:
                here = whole.sites[VICTIM]
                if again == "ready":
                    here.ready()
                elif again == "masked":
                    here.masked({}, whole.encoded(VICTIM))
                else:
                    getattr(here, again)([])
            seen.append(caught.value.code)
        return question

    attacked(whole, **{stage: provoke})

    assert seen == [code] and whole.sites[VICTIM]._secrets is None
    assert whole.aborted[VICTIM] == "secagg-closed"


@pytest.mark.parametrize(
    "other", [RoundId("run-2", 1, "ab" * 32), RoundId("run-1", 2, "ab" * 32), RoundId("run-1", 1, "cd" * 32)]
)
def test_messages_of_another_run_round_or_plan_are_replays(tools, other):
    whole = tools.Round(5)
    body = {"mask_pk": "ab" * 32, "share_pk": "cd" * 32, "b_commit": "ef" * 32, "inputs": whole.inputs}
    stray = sign("ready", other, whole.identities["site-03"], body).signed
    attacked(whole, shares=only_for(VICTIM, lambda bundle: [*bundle[:3], stray, bundle[4]]))

    assert whole.aborted[VICTIM] == "secagg-wrong-context" and whole.nothing_revealed()


def test_another_model_or_plan_for_one_site_stops_everybody_who_sees_it(tools):
    """The coordinator singles one site out, and hides that it did: it accepts what no honest one would."""
    whole = tools.Round(5)
    whole.sites["site-03"] = whole.site("site-03", inputs="00" * 32)
    ready = {site: whole.sites[site].ready() for site in whole.ids}
    bundle = [body.signed for body in ready.values()]
    for site in whole.ids:
        with pytest.raises(FedError) as caught:
            whole.sites[site].shares(bundle)
        assert caught.value.code == "secagg-inputs-differ"

    assert all(site._secrets is None for site in whole.sites.values())


@pytest.mark.parametrize("key", ["00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "01" + "00" * 30 + "80"])
def test_a_key_of_small_order_is_refused_by_sites_and_coordinator(tools, key):
    whole = tools.Round(5)
    bad = {"ready": lambda site, said: whole.resign(site, "ready", said, mask_pk=key) if site == "site-02" else said}
    whole.run(changes=bad)
    lenient = tools.Round(5)
    bundle = [lenient.sites[site].ready().signed for site in lenient.ids]
    bundle[2] = lenient.resign("site-02", "ready", bundle[2], mask_pk=key)

    assert whole.failures == {"site-02": "secagg-bad-key"}
    with pytest.raises(FedError) as caught:
        lenient.sites[VICTIM].shares(bundle)
    assert caught.value.code == "secagg-bad-key"


def test_two_sites_with_one_key_are_refused(tools):
    whole = tools.Round(5)
    bundle = [whole.sites[site].ready().signed for site in whole.ids]
    copied = bundle[1]["body"]["mask_pk"]
    bundle[2] = whole.resign("site-02", "ready", bundle[2], mask_pk=copied)
    with pytest.raises(FedError) as caught:
        whole.sites[VICTIM].shares(bundle)

    assert caught.value.code == "secagg-bad-key"


def test_a_box_sent_back_misdirected_or_of_garbage_opens_for_nobody_and_the_round_goes_on(tools):
    whole = tools.Round(8)
    kept = {}

    def misdirect(site, boxes):
        kept[site] = dict(boxes)
        if site != VICTIM:
            return boxes
        own = whole.server.accepted["shares"][VICTIM].texts("boxes")
        return {**boxes, "site-01": own["site-01"], "site-02": "00" * 148}

    found = whole.run(asked={"masked": misdirect})
    said = whole.server.accepted["masked"][VICTIM]

    assert said.sites("unopened") == ("site-01", "site-02")
    assert found.suspects == {"site-01": "secagg-bad-ciphertext", "site-02": "secagg-bad-ciphertext"}
    assert (whole.server._total == whole.plain_sum(whole.ids)).all()


# A lying site: it is named, and the round goes on.


@pytest.mark.parametrize("liar", ["site-00", "site-04", "site-07"])
@pytest.mark.parametrize("dropped", [None, "site-03"])
def test_a_wrong_share_names_its_holder_and_another_subset_serves(tools, liar, dropped):
    whole = tools.Round(8)

    def lie(site, said):
        if site != liar:
            return said
        seeds = {owner: "00" * 65 + "07" for owner in said["body"]["seeds"]}
        return whole.resign(site, "unmask", said, seeds=seeds)

    found = whole.run(changes={"unmask": lie}, gone={"masked": [dropped] if dropped else []})

    assert found.suspects == {liar: "secagg-bad-share"}
    assert (whole.server._total == whole.plain_sum(found.survivors)).all()


def test_a_site_that_dealt_wrong_shares_to_all_is_named_and_the_round_is_closed(tools, monkeypatch):
    whole = tools.Round(5)
    dealer = whole.sites["site-01"]
    true = dealer._boxes

    def deal(secrets, box_keys):
        secrets.seed, kept = bytes(32), secrets.seed
        boxes = true(secrets, box_keys)
        secrets.seed = kept
        return boxes

    monkeypatch.setattr(dealer, "_boxes", deal)
    with pytest.raises(FedError) as caught:
        whole.run()

    assert caught.value.code == "secagg-bad-share" and "site-01" in caught.value.message


@pytest.mark.parametrize("stage", ["ready", "shares", "masked", "agree", "unmask"])
def test_a_wrong_signature_names_its_site_and_the_round_goes_on_without_it(tools, stage):
    whole = tools.Round(8)
    wrong = {stage: lambda site, said: {**said, "signature": "00" * 64} if site == "site-05" else said}
    found = whole.run(changes=wrong)

    assert whole.failures == {"site-05": "secagg-bad-signature"}
    assert ("site-05" in found.survivors) == (stage in ("agree", "unmask"))
    assert (whole.server._total == whole.plain_sum(found.survivors)).all()


@pytest.mark.parametrize(
    "stage, fields, code",
    [
        ("ready", {"inputs": "00" * 32}, "secagg-inputs-differ"),
        ("shares", {"roster": "00" * 32}, "secagg-wrong-context"),
        ("shares", {"boxes": {}}, "secagg-wrong-context"),
        ("masked", {"peers": ["site-05"]}, "secagg-wrong-context"),
        ("masked", {"vector": "00" * 32}, "secagg-digest-mismatch"),
        ("agree", {"vectors": "00" * 32}, "secagg-split-view"),
        ("agree", {"survivors": ["site-05"]}, "secagg-split-view"),
        ("unmask", {"seeds": {"site-00": "ff" * 66}}, "secagg-out-of-range"),
        ("unmask", {"keys": {"site-00": "00" * 66}}, "secagg-wrong-context"),
        ("masked", {"unopened": ["../x"]}, "secagg-not-canonical"),
        ("ready", {"mask_pk": "zz" * 32}, "secagg-not-canonical"),
        ("unmask", {"more": 1}, "secagg-not-canonical"),
    ],
)
def test_an_answer_with_other_content_names_its_site_and_the_round_goes_on(tools, stage, fields, code):
    whole = tools.Round(8)
    change = {stage: lambda site, said: whole.resign(site, stage, said, **fields) if site == "site-05" else said}
    found = whole.run(changes=change)

    assert whole.failures == {"site-05": code}
    assert (whole.server._total == whole.plain_sum(found.survivors)).all()


def test_a_message_under_anothers_name_is_not_taken(tools):
    whole = tools.Round(8)
    said = {site: whole.sites[site].ready().signed for site in whole.ids}
    with pytest.raises(FedError) as caught:
        whole.server.add_ready("site-00", said["site-01"])

    assert caught.value.code == "secagg-wrong-context"


def test_a_vector_of_another_length_or_with_a_wrong_count_is_found(tools):
    whole = tools.Round(5)
    short = {}

    def cut(site, said):
        if site == "site-02":
            short[site] = whole.vectors[site][:-2]
            whole.vectors[site] = short[site]
        return said

    whole.run(changes={"masked": cut})
    spoiled = tools.Round(5)

    def twice(site, said):
        if site != "site-02":
            return said
        vector = bytearray(spoiled.vectors[site])
        vector[-4] ^= 1  # one of the count words
        spoiled.vectors[site] = bytes(vector)
        return spoiled.resign(site, "masked", said, vector=Payload(bytes(vector)).sha256)

    with pytest.raises(FedError) as caught:
        # the site's own check would stop it: it lies at every later stage too
        spoiled.sites["site-02"].agree = lambda bundle: _forced(spoiled, bundle)
        spoiled.run(changes={"masked": twice})

    assert whole.failures == {"site-02": "secagg-out-of-range"}
    assert caught.value.code == "secagg-mask-residue"


def _forced(whole, bundle):
    site = whole.sites["site-02"]
    site._own["masked"] = type(site._own["masked"])("site-02", bundle[2]["body"], bundle[2])
    return type(site).agree(site, bundle)
