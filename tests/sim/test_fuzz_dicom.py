import numpy as np

from sim.fuzz_dicom import fuzz, mutated


def test_mutated_files_end_clean_or_with_a_reason() -> None:
    report = fuzz(150, seed=5)

    assert report.inputs == 150 and not report.failures
    assert len(report.outcomes) > 3 and report.slowest_s > 0


def test_the_same_seed_makes_the_same_inputs() -> None:
    corpus = [bytes(range(256)) * 4]

    assert mutated(corpus, np.random.default_rng(1)) == mutated(corpus, np.random.default_rng(1)) != corpus[0]
