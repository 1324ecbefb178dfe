"""Commands and states between wallet and docking: strict both ways."""

import pytest

from depai_robot.nodes.docking_protocol import (
    DockingCommand,
    DockingState,
    decode_command,
    decode_state,
    encode,
)
from depai_robot.values.error import RemoteError


def test_round_trips() -> None:
    command = DockingCommand(7, "dock", "dock_a", (1.0, 2.0, 0.5))
    assert decode_command(encode(command)) == command
    state = DockingState(7, "APPROACHING")
    assert decode_state(encode(state)) == state


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"id":1,"verb":"pay"}',
        '{"id":1,"verb":"dock","pose":[0,0]}',
        '{"id":1,"verb":"dock","x":1}',
        '{"id":1,"verb":"dock","pose":[1e9,0,0]}',
        "[" * 10_000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RemoteError, match="docking/command refused"):
        decode_command(text)
