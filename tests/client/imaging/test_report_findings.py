import pytest

from client.imaging.identifiers import Identifiers
from client.imaging.report_text import scrub, scrub_by_rules


@pytest.mark.parametrize(
    "text",
    [
        "The lungs show a scar in the R.U.L. and R.M.Z. is clear. L.L.L. collapse is seen.",
        "C.B.D.: 6 mm in diameter. P.V.: 12 mm in diameter. G.B.: is contracted.",
        "The heart is normal. Rt. C.P. angle is blunted. Nodule in the Lt. U.Z. Cardiac size is normal.",
        "The heart is normal. Native T1 1140 ms (normal 960-1040 at 1.5 T). The stone has HU 1320.",
        "The spectrum at TE 144 is normal. PSA 4.1, RBS 388, range 1100-1250.",
        "Nodules are in the RUL 5:41 6 mm, 5:72 4 mm and in the RML 5:113 7 x 5.",
        "There is a 7 mm mass at 4:00 in the right breast. A cyst at 9:30, 3 cm from the nipple.",
        "The sinuses are opaque, Lund Mackay 13/24, severity score 14/25.",
        "There is bronchiectasis, Bhalla 14, with plugs.",
        "These fulfil the McDonald 2017 criteria. Fleischner 2017 applies. By the 2018 ACR lexicon it is benign.",
        "There is acute cholecystitis, Tokyo 2018 grade II, with stones.",
        "The next study is due in 10-14 weeks. The drain is 12 Fr in size.",
        "Old fractures of the ribs on the rt 5-7 are seen, and of ribs 8-9.",
        "A bioprosthesis (Edwards Sapien 3) is seen. Bracing (Boston) is considered. Done on a Siemens Aera scanner.",
        "The NG in stomach is coiled. The DV a wave is positive. An ACL graft (BTB) is torn.",
        "Active ileal Crohn's. Old Koch's with scars.",
        "A THJR is seen. The vertebrals are codominant. The SPJ is competent.",
    ],
)
def test_findings_in_the_form_of_initials_hours_and_numbers_stay(text: str) -> None:
    assert scrub_by_rules(text, Identifiers()) == text
    assert scrub(text, Identifiers()) == text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Seen by P.V. on Monday.", "Seen by [NAME] on [DATE]."),
        ("The lungs are clear. P.V. Kvothe called.", "The lungs are clear. [NAME] called."),
        ("The lungs are clear. G.B. informed of this.", "The lungs are clear. [NAME] informed of this."),
        ("The lungs are clear. G.B.", "The lungs are clear. [NAME]"),
        ("The lungs are clear. Q.J. has the films.", "The lungs are clear. [NAME] has the films."),
        ("The ward was called at 4:33 about this.", "The ward was called at [DATE] about this."),
        ("A mass is seen. Called at 3:00 by the ward.", "A mass is seen. Called at [DATE] by the ward."),
        ("The lungs are clear. C.P. wanted a copy.", "The lungs are clear. [NAME] wanted a copy."),
        ("Nodule seen at 4:30 by Dr. Kvothe, 5 mm.", "Nodule seen at [DATE] by [NAME], 5 mm."),
        ("The lungs are clear. Range 555-0190 is it.", "The lungs are clear. Range [ID] is it."),
        ("PSA 11/12/2023 was normal.", "PSA [DATE] was normal."),
        ("The film of 11/24 is normal.", "The film of [DATE] is normal."),
        ("She came from Tokyo 2018 with a cyst.", "She came from [PLACE] [DATE] with a cyst."),
        ("Dr. Crohn's, in the clinic.", "[NAME], in the clinic."),
    ],
)
def test_real_initials_hours_and_days_go(text: str, clean: str) -> None:
    assert scrub(text, Identifiers()) == clean


def test_a_header_names_more_than_a_finding_does() -> None:
    known = Identifiers(names=frozenset({"bhalla", "gopal", "bhatt"}), ids=frozenset({"1320"}))

    assert scrub_by_rules("The Bhalla 16 is stable.", known) == "The [NAME] 16 is stable."
    assert scrub("The stone has HU 1320.", known) == "The stone has HU [ID]."
    assert scrub("The lungs are clear. G.B. has seen it.", known) == "The lungs are clear. [NAME] has seen it."
    assert scrub("The lungs are clear. G.B.: is contracted.", known) == "The lungs are clear. G.B.: is contracted."
