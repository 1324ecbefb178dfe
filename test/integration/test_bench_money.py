"""The benches of money run and mean something: a wave of vouchers is accepted, gas falls with what is shared."""

import pytest

from bench import gas, station_throughput
from depai_robot.adapters.anvil import find_anvil


def test_a_wave_of_vouchers_is_accepted_and_journalled_in_groups() -> None:
    figures = station_throughput.measure_inside(waves=2)
    assert figures["vouchers"] == 2 * station_throughput.SESSIONS
    assert figures["per_s_of_processor_time"] > 100
    assert figures["journal_rows_per_fsync"] > 1


def test_gas_falls_with_what_is_shared() -> None:
    if find_anvil() is None:
        pytest.skip("anvil is not installed: depai-robot setup chain")
    figures = gas.measure()
    single = figures["channel_for_one_session"]["session"]
    shared = figures[f"channels_for_one_session,_claimed_{gas.BATCH}_at_a_time"]["session"]
    reused = figures["channel_used_again"]["session"]
    both = figures[f"channels_used_again,_claimed_{gas.BATCH}_at_a_time"]["session"]
    plain = figures["plain_transfers,_one_a_tranche"][f"session_of_{gas.TRANCHES}_tranches"]
    assert both < reused < shared < single < plain
