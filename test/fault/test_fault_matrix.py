"""One case of each group of the fault matrix; every case with ``DEPAI_FAULTS=all``. The table: ``make faults``."""

import os

import pytest

from depai_robot.adapters.anvil import find_anvil
from depai_robot.adapters.broker_process import find_mosquitto
from test.fault.fault_cases import GROUPS, first_of_each, make_cases
from test.fault.fault_matrix import run_matrix

TRANCHE_ATOMIC = 600
LANES = 4
ALL = os.environ.get("DEPAI_FAULTS") == "all"


@pytest.mark.timeout(14400 if ALL else 600)
def test_no_fault_costs_anybody_anything(tmp_path) -> None:
    if find_anvil() is None:
        pytest.skip("anvil is not installed: depai-robot setup chain")
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")

    def choose(baseline):
        cases = list(make_cases(baseline, 3))
        assert {group for group, _ in cases} == set(GROUPS)
        return cases if ALL else first_of_each(cases)

    done = run_matrix(tmp_path, choose, LANES)
    bad = [
        f"{group}: {outcome.name}: {outcome.ended}, robot lost {outcome.robot_lost}, station lost"
        f" {outcome.station_lost}, locked {outcome.locked}; {'; '.join(outcome.findings[:3])}"
        for group, outcome in done
        if outcome.findings or outcome.robot_lost or outcome.station_lost > TRANCHE_ATOMIC or outcome.locked
    ]
    assert not bad, "\n".join(bad)
