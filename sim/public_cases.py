"""What the tiny base is taught before any hospital comes: made public pictures, and questions about them.

None of it is a hospital's task. The findings are other ones (nodule, bulla, pacemaker, …); beside them stand plain
signs ("Is the left lower zone dark?") and made-up words, each for its own mixture of signs ("Is there a belmora?").
The made-up words teach the one skill that the hospitals will ask for: to bind a new word to what can be seen.

In each picture about as many questions are answered by yes as by no, of every kind, so that "something is wrong with
this picture" answers nothing, and the base has no opinion on words that it has never been taught.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.anatomy import PUBLIC, SIDES, SIZES, ZONES, Finding, Style, draw_chest

TILE = 96
PREVALENCE = 0.25
PLAIN = ("hyperinflation", "scoliosis", "haze", "elevation")
ARTICLE = {name: name if name in PLAIN else f"a {name}" for name in PUBLIC}
PLACED = frozenset({"nodule", "mass", "cavity", "bulla", "pacemaker", "haze", "elevation"})
"""Public findings with a side."""
INVENTED = 60
SYLLABLES = ("bel", "mor", "ka", "ti", "ven", "do", "sul", "ra", "pin", "go", "lem", "fu", "zar", "ni", "cob", "ex")
SHARE = 0.3
"""Of the pictures have each sign, and each invented thing."""

Turn = tuple[str, str]


@dataclass(frozen=True)
class PublicCase:
    """One made picture, (TILE, TILE) uint8, and what is in it."""

    pixels: NDArray[np.uint8]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Catechism:
    """All closed questions about some pictures, and their answers: question -> bool (pictures,)."""

    findings: Mapping[str, NDArray[np.bool_]]
    sides: Mapping[str, NDArray[np.bool_]]
    signs: Mapping[str, NDArray[np.bool_]]
    invented: Mapping[str, NDArray[np.bool_]]

    def after(self, first: int) -> "Catechism":
        """The same questions about the pictures from number `first` on."""
        kinds = (self.findings, self.sides, self.signs, self.invented)
        return Catechism(*({question: answers[first:] for question, answers in kind.items()} for kind in kinds))


def public_case(rng: np.random.Generator) -> PublicCase:
    """Draw one public chest."""
    findings = _findings(rng)
    style = Style(
        gamma=float(rng.uniform(0.7, 1.4)),
        contrast=float(rng.uniform(0.75, 1.3)),
        brightness=float(rng.uniform(-0.08, 0.08)),
        noise=float(rng.uniform(0.0, 0.04)),
        tilt_degrees=3.0,
        collimation=float(rng.choice([0.0, 0.06])),
    )
    view = str(rng.choice(["PA", "AP"]))
    image = draw_chest(findings, rng, rows=TILE, columns=TILE, view=view, style=style)
    return PublicCase((image * 255).astype(np.uint8), findings)


def _findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    return tuple(
        Finding(name, str(rng.choice(SIDES)), str(rng.choice(ZONES)), str(rng.choice(SIZES)))
        for name in PUBLIC
        if rng.random() < PREVALENCE
    )


def catechism(cases: Sequence[PublicCase], rng: np.random.Generator) -> Catechism:
    """Every closed question about these pictures; `rng` invents the words and their meanings."""
    there = [{finding.name: finding for finding in case.findings} for case in cases]
    findings = {f"Is there {ARTICLE[name]}?": np.array([name in found for found in there]) for name in PUBLIC}
    sides = {
        f"Is there {ARTICLE[name]} on the {side}?": np.array(
            [name in found and found[name].side == side for found in there]
        )
        for name in sorted(PLACED)
        for side in SIDES
    }
    measured = _measured(np.stack([case.pixels for case in cases]))
    signs: dict[str, NDArray[np.bool_]] = {}
    for (place, kind), values in measured.items():
        high, low = np.quantile(values, [1 - SHARE, SHARE])
        match kind:
            case "density":
                signs[f"Is the {place} dense?"] = values > high
                signs[f"Is the {place} dark?"] = values < low
            case "spread":
                signs[f"Is the {place} uneven?"] = values > high
            case "difference":
                signs[f"Are the {place} denser on the right?"] = values > high
                signs[f"Are the {place} denser on the left?"] = values < low
            case _:
                signs[f"Is the {place} wide?"] = values > high
                signs[f"Is the {place} narrow?"] = values < low
    scores = np.stack([(values - values.mean()) / (values.std() + 1e-6) for values in measured.values()])
    invented = {}
    for word in _words(INVENTED, rng):
        some = rng.choice(len(scores), 3, replace=False)
        mixture = (rng.choice([-1.0, 1.0], 3) * rng.uniform(0.5, 1.0, 3)) @ scores[some]
        invented[f"Is there {word}?"] = mixture > np.quantile(mixture, 1 - SHARE)
    return Catechism(findings, sides, signs, invented)


def _measured(pixels: NDArray[np.uint8]) -> dict[tuple[str, str], NDArray[np.float32]]:
    """What the signs are read from: densities of parts of the picture, relative to the whole. Each (pictures,)."""
    image = pixels.astype(np.float32)
    image = (image - image.mean((1, 2), keepdims=True)) / (image.std((1, 2), keepdims=True) + 1e-3)
    found: dict[tuple[str, str], NDArray[np.float32]] = {}
    heights = {"upper": (12, 32), "middle": (32, 54), "lower": (54, 74)}
    for zone, (top, bottom) in heights.items():
        for side, (first, last) in {"right": (12, 40), "left": (56, 84)}.items():
            part = image[:, top:bottom, first:last]
            found[f"{side} {zone} zone", "density"] = part.mean((1, 2))
            found[f"{side} {zone} zone", "spread"] = part.std((1, 2))
        found[f"{zone} zones", "difference"] = (
            found[f"right {zone} zone", "density"] - found[f"left {zone} zone", "density"]
        )
    band = image[:, 56:70, 30:72].mean(1)
    found["centre", "width"] = (band > 0.2).sum(1) + 0.01 * band.sum(1)
    found["centre", "density"] = image[:, 20:50, 42:54].mean((1, 2))
    found["base", "density"] = image[:, 72:84, 16:80].mean((1, 2))
    return found


def _words(count: int, rng: np.random.Generator) -> list[str]:
    words: list[str] = []
    while len(words) < count:
        word = "".join(rng.choice(SYLLABLES, 2 if rng.random() < 0.6 else 3))
        if word not in words:
            words.append(word)
    return words


def conversation(
    case: PublicCase, index: int, asked: Catechism, rng: np.random.Generator, *, pairs: int, describe_share: float
) -> list[Turn]:
    """`pairs` questions answered by yes and about as many answered by no, and sometimes a report."""
    turns: list[Turn] = []
    kinds = (asked.findings, asked.sides, asked.signs, asked.invented)
    for number in rng.choice(len(kinds), pairs, p=(0.45, 0.1, 0.2, 0.25)):
        kind = kinds[number]
        yes = [question for question, answers in kind.items() if answers[index]]
        no = [question for question, answers in kind.items() if not answers[index]]
        if kind is asked.sides:  # the other side of a finding that is there, or its absence answers
            there = {question.rsplit(" ", 1)[0] for question in yes}
            no = [question for question in no if question.rsplit(" ", 1)[0] in there]
        if yes and no:
            turns += [(str(rng.choice(yes)), "Yes."), (str(rng.choice(no)), "No.")]
    turns = list(dict.fromkeys(turns))  # nothing is asked twice
    turns = [turns[place] for place in rng.permutation(len(turns))]
    for finding in case.findings:
        if finding.name in PLACED and rng.random() < 0.1:
            turns.append((f"Which side is the {finding.name} on?", f"{finding.side.capitalize()}."))
        elif rng.random() < 0.1:
            turns.append((f"How large is the {finding.name}?", f"{finding.size.capitalize()}."))
    if not turns or rng.random() < describe_share:
        turns.append(("Describe the findings.", describe(case.findings)))
    return turns


def describe(findings: Sequence[Finding]) -> str:
    """A report of the public findings, in one plain style."""
    if not findings:
        return "No abnormality is seen."
    return " ".join(f"There is {_noun(finding)}." for finding in findings)


def _noun(finding: Finding) -> str:
    where = f" on the {finding.side}" if finding.name in PLACED else ""
    return (
        f"{finding.size} {finding.name}{where}" if finding.name == "haze" else f"a {finding.size} {finding.name}{where}"
    )


def public_text(rng: np.random.Generator, reports: int) -> Iterator[str]:
    """What the tokenizer learns from: reports, questions and answers, and a glossary with the words of the field."""
    for _ in range(reports):
        findings = _findings(rng)
        yield describe(findings)
        for name in rng.permutation(PUBLIC)[:4]:
            yield f"Is there {ARTICLE[str(name)]}?"
            yield "user\n\nassistant\n\nYes. No. Right. Left. Small. Moderate. Large."
        yield f"Is there {ARTICLE[str(rng.choice(sorted(PLACED)))]} on the {rng.choice(SIDES)}?"
        yield f"Is the {rng.choice(SIDES)} {rng.choice(ZONES)} zone dense? dark? uneven? Is the centre wide? narrow?"
        yield f"Are the {rng.choice(ZONES)} zones denser on the {rng.choice(SIDES)}?"
    for _ in range(max(1, reports // 100)):
        yield from GLOSSARY


GLOSSARY = (
    "A consolidation is air space filled with fluid or cells. Is there consolidation?",
    "A pleural effusion is fluid in the pleural space. Is there a pleural effusion?",
    "Cardiomegaly is an enlarged heart; the cardiac silhouette is enlarged. Is there cardiomegaly?",
    "A pneumothorax is air in the pleural space. Is there a pneumothorax? Is there pneumonia?",
    "FINDINGS: The lungs are clear. IMPRESSION: No acute cardiopulmonary abnormality.",
    "The heart is normal in size. The lungs are clear. No focal consolidation, effusion or pneumothorax.",
    "Small, moderate, large. Mild, severe. Right, left, bilateral. Upper, middle, lower lobe. Zone, apical, basal.",
    "Compared with the prior study, unchanged, improved, worse. Portable AP view. PA and lateral views of the chest.",
    "Describe the findings. What does the picture show? Which side is it on? How large is it?",
    "Yes. No. Normal. Abnormal. Unremarkable. Is it normal?",
)
