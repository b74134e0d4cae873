"""A federation in one process whose patients are vectors: real sites that fail on demand and come back."""

import pytest

from server import rounds
from server.checkpoint import Checkpoints
from sim.faults import FaultyLink, parse_fault
from sim.links import LocalLink
from sim.vectors import POLICY, SHAPES, patients_of, roster_of, vector_site


class Federation:
    """Sites with the patients that they have declared, and a run in their coordinator's folder."""

    def __init__(self, folder, plan, declared, *, shapes=SHAPES, numbers=12, policies=None, faults=()):
        self.folder, self.plan, self.declared, self.roster = folder, plan, declared, roster_of(declared)
        self.shapes, self.numbers, self.policies = shapes, numbers, policies or {}
        self.faults, self.sites = [parse_fault(text) for text in faults], {}
        self._start(*declared)

    def _start(self, *names):
        self.sites |= {
            site: vector_site(
                site, self.folder / site, patients_of(site, self.numbers), shapes=self.shapes, roster=self.roster,
                policy=self.policies.get(site, POLICY), declared_patients=self.declared[site],
            )
            for site in names
        }  # fmt: skip
        self.link = FaultyLink(LocalLink(self.sites), self.faults)

    def restart(self, *names):
        """These sites die and come back: what was in memory only is lost."""
        for name in names:
            self.sites[name].ledger.close()
        self._start(*names)

    def run(self, observer=lambda record, adapter: None, *, link=None):
        folder = self.folder / "run"
        if (folder / "run.json").exists():
            checkpoints = Checkpoints.open(folder, plan=self.plan)
        else:
            checkpoints = Checkpoints.create(folder, run_id="run-1", plan=self.plan)
        return rounds.run(self.plan, link or self.link, checkpoints, roster=self.roster, observer=observer)


@pytest.fixture
def federation(tmp_path, request):
    """Makes federations: of the PLAN and the DECLARED patients of the test's own file, where no others are given."""
    usual, opened = request.module, []

    def make(plan=None, name="federation", *, declared=None, **options):
        opened.append(Federation(tmp_path / name, plan or usual.PLAN, declared or usual.DECLARED, **options))
        return opened[-1]

    yield make
    for each in opened:
        for site in each.sites.values():
            site.ledger.close()
