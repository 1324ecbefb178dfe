"""Nav2's actions in the place of our docking node, with Nav2's own action types and a server that plays its part."""

import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")

from std_msgs.msg import Bool, String

from depai_robot.nodes.docking_protocol import DockingCommand, DockingState, decode_state, encode
from depai_robot.nodes.lifecycle import bring_up
from depai_robot.nodes.nav2_docking import Nav2Docking
from depai_robot.nodes.quality import LATCHED
from depai_robot.values.error import ConfigError


class Bench:
    """The node, its wallet, and Nav2's server."""

    def __init__(self, ros) -> None:
        from nav2_msgs.action import DockRobot, UndockRobot
        from rclpy.action import ActionServer, CancelResponse
        from rclpy.task import Future

        self.ros = ros
        self.node = ros.add(Nav2Docking())
        self.other = ros.node("wallet_and_nav2")
        self.states: list[DockingState] = []
        self.goals: list = []
        self.ends: list[Future] = []
        self.commands = self.other.create_publisher(String, "docking/command", LATCHED)
        self.contact = self.other.create_publisher(Bool, "charging_contact", LATCHED)
        self.other.create_subscription(
            String, "docking/state", lambda message: self.states.append(decode_state(message.data)), LATCHED
        )
        self.number = 0

        async def execute(handle):
            self.goals.append(handle)
            end = Future(executor=self.other.executor)
            self.ends.append(end)
            code = await end
            kind = DockRobot if hasattr(handle.request, "dock_id") else UndockRobot
            result = kind.Result(success=code == 0, error_code=max(0, code))
            if handle.is_cancel_requested:
                handle.canceled()
            elif code == 0:
                handle.succeed()
            else:
                handle.abort()
            return result

        def cancel(handle):
            self.ends[self.goals.index(handle)].set_result(-1)
            return CancelResponse.ACCEPT

        self.servers = [
            ActionServer(self.other, kind, name, execute, cancel_callback=cancel)
            for kind, name in ((DockRobot, "dock_robot"), (UndockRobot, "undock_robot"))
        ]
        ros.until(
            lambda: (
                self.commands.get_subscription_count()
                and self.contact.get_subscription_count()
                and all(client.server_is_ready() for client in self.node._nav2.values())
            )
        )

    def ask(self, verb: str, dock: str = "dock_far") -> int:
        self.number += 1
        self.commands.publish(String(data=encode(DockingCommand(self.number, verb, dock, (1.0, 2.0, 0.5)))))
        return self.number

    def answer(self, number: int) -> DockingState:
        self.ros.until(lambda: any(s.id == number and s.result for s in self.states))
        return next(s for s in self.states if s.id == number and s.result)


@pytest.fixture
def bench(ros):
    pytest.importorskip("nav2_msgs", reason="nav2_msgs comes with Nav2, it is in no package registry")
    made = Bench(ros)
    yield made
    for server in made.servers:
        server.destroy()


def test_contact_is_told_before_the_current_that_nav2_waits_for(bench):
    number = bench.ask("dock")
    bench.ros.until(lambda: bench.goals)
    goal = bench.goals[0].request
    assert (goal.use_dock_id, goal.dock_id, goal.navigate_to_staging_pose) == (True, "dock_far", True)
    bench.contact.publish(Bool(data=True))
    assert bench.answer(number).result == "docked"
    bench.ends[0].set_result(0)
    bench.ros.spin_for(0.3)
    assert sum(1 for s in bench.states if s.id == number and s.result) == 1
    number = bench.ask("undock")
    bench.ros.until(lambda: len(bench.goals) == 2)
    bench.ends[1].set_result(0)
    assert bench.answer(number).result == "undocked"


@pytest.mark.parametrize(
    ("code", "words"), [(904, "Nav2 904: the dock was not seen"), (906, "no charge current")]
)
def test_nav2s_errors_are_said_with_their_words(bench, code, words):
    number = bench.ask("dock")
    bench.ros.until(lambda: bench.goals)
    bench.ends[0].set_result(code)
    answer = bench.answer(number)
    assert answer.result == "failed"
    assert words in answer.reason


def test_stop_cancels_the_goal(bench):
    bench.ask("dock")
    bench.ros.until(lambda: bench.goals)
    bench.ros.until(lambda: bench.node._goal is not None)
    assert bench.answer(bench.ask("stop")).result == "stopped"
    assert bench.ends[0].done()


def test_undocking_takes_the_place_of_a_goal_that_still_waits_for_current(bench):
    number = bench.ask("dock")
    bench.ros.until(lambda: bench.goals and bench.node._goal is not None)
    bench.contact.publish(Bool(data=True))
    bench.answer(number)
    number = bench.ask("undock")
    bench.ros.until(lambda: len(bench.goals) == 2)
    assert bench.ends[0].done()
    bench.ends[1].set_result(0)
    assert bench.answer(number).result == "undocked"


def test_an_inactive_node_cancels_and_refuses(bench):
    bench.ask("dock")
    bench.ros.until(lambda: bench.node._goal is not None)
    assert bench.node.trigger_deactivate().name == "SUCCESS"
    bench.ros.until(lambda: bench.ends[0].done())
    assert "not active" in bench.answer(bench.ask("dock")).reason


def test_without_nav2_the_node_says_what_is_missing(ros):
    try:
        import nav2_msgs  # noqa: F401
    except ImportError:
        node = Nav2Docking()
        ros.executor.add_node(node)
        ros._nodes.append(node)
        with pytest.raises(ConfigError, match="nav2_msgs is not installed"):
            bring_up(node)
