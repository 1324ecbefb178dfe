"""The wallet's face in ROS: the action ``~/charge_battery``, session and receipt, budget and policy (depai_interfaces).

Everything here is an intent or a reading. There is no way to name an address, an amount or a key.
"""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.task import Future

from depai_robot.app import charge_task
from depai_robot.app.charge_task import ChargeView, find_session, view_charge
from depai_robot.app.wallet import WalletProgram
from depai_robot.charging.effect import KeepReceipt
from depai_robot.charging.fact import Fact, StopRequested
from depai_robot.charging.robot_state import RobotState
from depai_robot.nodes.lifecycle import ManagedNode
from depai_robot.nodes.quality import LATCHED
from depai_robot.payment.receipt import parse_receipt
from depai_robot.values.error import ConfigError, DepaiError
from depai_robot.values.identity import address_to_hex, keccak256

try:
    from depai_interfaces.action import Charge
    from depai_interfaces.msg import ChargingReceipt, ChargingSession
    from depai_interfaces.srv import GetBudget, GetPolicy
except ImportError as error:
    MISSING = (
        f"depai_interfaces is not installed ({error}): no action, session and receipt messages, no budget and policy"
        " services; build it with colcon beside this package. ~/charge and ~/stop work without"
    )
else:
    MISSING = ""

PERIOD_S = 0.5
QUEUE_S = 5.0
"""A request that has not become a session by then has not been taken."""
RECEIPTS_MAX = 16
U64_MAX = 2**64 - 1


class ChargeServer:
    """Action, topics and services of one wallet node; made when it is configured.

    Args:
        node: of the wallet.
        program: to be asked; not started yet.
        state_of_charge: 0..1, NaN while the battery does not answer.

    Raises:
        ConfigError: depai_interfaces is not there.
    """

    def __init__(
        self, node: ManagedNode, program: WalletProgram, state_of_charge: Callable[[], float]
    ) -> None:
        if MISSING:
            raise ConfigError(MISSING)
        self._node, self._program, self._state_of_charge = node, program, state_of_charge
        self._goal: Any = None
        self._session = ""
        self._stopped_for = ""
        self._finished: Future[None] | None = None
        self._told: ChargeView | None = None
        self._receipts: deque[str] = deque(maxlen=RECEIPTS_MAX)
        self._sessions = node.create_publisher(ChargingSession, "~/session", LATCHED)
        self._receipt = node.create_publisher(ChargingReceipt, "~/receipt", LATCHED)
        node.create_service(GetBudget, "~/get_budget", self._get_budget)
        node.create_service(GetPolicy, "~/get_policy", self._get_policy)
        node.create_timer(PERIOD_S, self.look)
        self._server = ActionServer(
            node,
            Charge,
            "~/charge_battery",
            execute_callback=self._execute,
            goal_callback=self._accept,
            cancel_callback=self._cancel,
        )
        program.observe(self._observe)

    def close(self) -> None:
        """Ends the action server; a goal under way is aborted, its session goes on to its settlement."""
        self._end(Charge.Result.UNKNOWN, "the wallet node ends; the session is settled")
        self._server.destroy()

    # --- action ----------------------------------------------------------------------------------------------

    def _accept(self, goal: Any) -> GoalResponse:
        # A rejection carries no reason in ROS, so a goal that can't be served is accepted and aborted with one.
        del goal
        return GoalResponse.ACCEPT

    def _cancel(self, goal: Any) -> CancelResponse:
        if goal is self._goal:
            self._stop("asked by the client")
        return CancelResponse.ACCEPT

    async def _execute(self, goal: Any) -> Any:
        refused = self._begin(goal)
        if refused is not None:
            goal.abort()
            return refused
        self._finished = Future(executor=self._node.executor)
        await self._finished
        view = self._known or view_charge(self._program.state, self._session)
        self._goal, self._finished = None, None
        return self._result(goal, view)

    def _begin(self, goal: Any) -> Any:
        """Asks the wallet; a result when it can't."""
        asked = goal.request
        if self._goal is not None:
            return self._failure(Charge.Result.BUSY, f"session {self._session} goes on")
        if (wrong := refuse_goal(asked, time.time(), self._state_of_charge())) != "":
            return self._failure(Charge.Result.INVALID_GOAL, wrong)
        if self._program.failure is not None:
            return self._failure(Charge.Result.WALLET_FAILED, str(self._program.failure))
        try:
            self._session = self._program.request_charge(
                price_max_atomic_per_kwh=asked.price_limit_atomic_per_kwh,
                cost_max_atomic=asked.cost_limit_atomic,
                station=asked.station,
            )
        except DepaiError as error:
            return self._failure(Charge.Result.BUSY, str(error))
        self._goal, self._stopped_for, self._seen_done = goal, "", False
        self._known: ChargeView | None = None
        self._asked_s = time.monotonic()
        return None

    def _failure(self, code: int, message: str) -> Any:
        return Charge.Result(error_code=code, error_msg=message)

    def _result(self, goal: Any, view: ChargeView) -> Any:
        code, message = self._ending
        result = Charge.Result(
            receipt_id=view.session if view.station else "",
            energy_milliwh=min(view.energy_milliwh, U64_MAX),
            cost_atomic=min(view.cost_atomic, U64_MAX),
            stop_reason=view.stop_reason,
            error_code=code,
            error_msg=message[:512],
        )
        if goal.is_cancel_requested:
            goal.canceled()
        elif code == Charge.Result.NONE:
            goal.succeed()
        else:
            goal.abort()
        return result

    def _end(self, code: int, message: str) -> None:
        if self._finished is not None and not self._finished.done():
            self._ending = (code, message)
            self._finished.set_result(None)

    def _stop(self, why: str) -> None:
        if self._stopped_for:
            return
        self._stopped_for = why
        try:
            self._program.runner.post(StopRequested(self._program.runner.instant(), why))
        except DepaiError as error:
            self._node.get_logger().error(f"stop was not taken: {error}")

    # --- looking -----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Twice a second: what has changed is said, limits of the goal are watched."""
        if not self._program.is_running and self._program.failure is None:
            return
        state = self._program.state
        self._say_receipts()
        session = state.session
        if session is not None:
            view = view_charge(state, session.id)
            if view != self._told:
                self._told = view
                self._sessions.publish(self._session_message(state, view))
        if self._goal is None:
            return
        if self._program.failure is not None:
            self._end(Charge.Result.WALLET_FAILED, str(self._program.failure))
            return
        if find_session(state, self._session) is None:
            self._look_for_lost()
            return
        view = self._known = view_charge(state, self._session)
        self._watch(view)
        self._goal.publish_feedback(
            Charge.Feedback(
                phase=view.phase,
                state_of_charge=self._state_of_charge(),
                energy_milliwh=view.energy_milliwh,
                cost_atomic=view.cost_atomic,
                distance_m=view.distance_m,
            )
        )

    def _look_for_lost(self) -> None:
        """The session is not there: not yet, not at all, or not any more."""
        if self._known is not None:
            # One that ends before anything was signed is forgotten at once.
            self._seen_done = True
            self._watch(replace(self._known, done=True, failure=charge_task.NO_OFFER))
        elif time.monotonic() - self._asked_s > QUEUE_S:
            self._end(
                Charge.Result.BUSY, "the wallet began no session: one goes on, or the robot leaves a dock"
            )

    def _watch(self, view: ChargeView) -> None:
        asked = self._goal.request
        target = asked.target_state_of_charge
        if view.phase == "CHARGING" and target > 0 and self._state_of_charge() >= target:
            self._stop(f"state of charge {target:.3f} is reached")
        deadline_s = asked.deadline.sec
        if deadline_s and time.time() >= deadline_s:
            self._stop("the deadline of the goal is over")
        if not view.done or not self._seen_done:
            self._seen_done = view.done  # once more, so that the receipt is on disk, too
            return
        codes = {
            charge_task.NONE: Charge.Result.NONE,
            charge_task.NO_OFFER: Charge.Result.NO_OFFER,
            charge_task.DOCKING: Charge.Result.DOCKING,
            charge_task.STATION_AT_FAULT: Charge.Result.STATION_AT_FAULT,
            charge_task.SETTLING: Charge.Result.SETTLING,
        }
        message = self._stopped_for or view.message
        if view.failure == charge_task.NO_OFFER:
            self._stop("no acceptable offer")
        code = codes.get(view.failure, Charge.Result.UNKNOWN)
        if code == Charge.Result.NONE and not view.station:
            code = Charge.Result.NO_OFFER
        self._end(code, message)

    # --- topics and services -------------------------------------------------------------------------------------

    def _observe(self, fact: Fact, before: RobotState, after: RobotState, effects: Sequence[Any]) -> None:
        """On the runner's thread."""
        del fact, before, after
        for effect in effects:
            if isinstance(effect, KeepReceipt):
                self._receipts.append(effect.receipt)

    def _say_receipts(self) -> None:
        while self._receipts:
            text = self._receipts.popleft()
            receipt = parse_receipt(text)
            message = ChargingReceipt(
                session=receipt.session,
                robot=receipt.robot,
                station=receipt.station,
                network=receipt.network,
                channel=receipt.channel,
                energy_milliwh=receipt.station_energy_milliwh,
                own_energy_milliwh=receipt.robot_energy_milliwh,
                price_atomic_per_kwh=receipt.price_atomic_per_kwh,
                owed_atomic=receipt.owed_atomic,
                deposited_atomic=receipt.deposited_atomic,
                claimed_atomic=receipt.claimed_atomic,
                returned_atomic=receipt.returned_atomic,
                left_atomic=receipt.left_atomic,
                stop_reason=receipt.stop_reason,
                fault=receipt.fault,
                digest="0x" + keccak256(text.encode()).hex(),
                json=text,
            )
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._receipt.publish(message)

    def _session_message(self, state: RobotState, view: ChargeView) -> Any:
        message = ChargingSession(
            session=view.session,
            phase=view.phase,
            station=view.station,
            energy_milliwh=view.energy_milliwh,
            cost_atomic=view.cost_atomic,
            stop_reason=view.stop_reason,
        )
        session = find_session(state, view.session)
        if session is not None:
            message.ceiling_atomic = session.money.signed - session.money.base
            message.escrow_atomic = session.money.escrow
            if session.agreement is not None:
                terms = session.agreement.agreed.terms
                message.connector = terms.connector
                message.price_atomic_per_kwh = terms.price_atomic_per_kwh
            if session.stop is not None and session.stop.fault:
                message.fault = session.stop.detail[:512]
        message.header.stamp = self._node.get_clock().now().to_msg()
        return message

    def _get_budget(self, request: Any, response: Any) -> Any:
        del request
        state = self._program.state
        policy, ledger = state.settings.policy, state.ledger
        response.day_max_atomic = min(policy.day_max_atomic, U64_MAX)
        response.day_spent_atomic = min(ledger.day_atomic(int(time.time())), U64_MAX)
        response.session_max_atomic = min(policy.session_max_atomic, U64_MAX)
        response.escrow_max_atomic = min(policy.escrow_total_max_atomic, U64_MAX)
        response.escrow_atomic = min(ledger.escrow_total_atomic, U64_MAX)
        response.token = address_to_hex(state.settings.network.token)
        return response

    def _get_policy(self, request: Any, response: Any) -> Any:
        del request
        policy = self._program.state.settings.policy
        now_s = time.time()
        response.epoch = min(policy.epoch, U64_MAX)
        response.valid = policy.valid_after_s <= now_s < policy.valid_before_s
        response.valid_after = Time(sec=min(policy.valid_after_s, 2**31 - 1))
        response.valid_before = Time(sec=min(policy.valid_before_s, 2**31 - 1))
        for name in (
            "price_max_atomic_per_kwh",
            "tranche_max_atomic",
            "session_max_atomic",
            "day_max_atomic",
        ):
            setattr(response, name, min(getattr(policy, name), U64_MAX))
        plain = {
            key: address_to_hex(value) if isinstance(value, bytes) else value
            for key, value in asdict(policy).items()
        }
        plain["payees"] = [address_to_hex(payee) for payee in policy.payees]
        response.json = json.dumps(plain)
        return response


def refuse_goal(goal: Any, now_s: float, state_of_charge: float) -> str:
    """What is wrong with a goal, or empty.

    Args:
        goal: Charge.Goal.
        now_s: wall clock.
        state_of_charge: 0..1, NaN when unknown.
    """
    target = goal.target_state_of_charge
    if math.isnan(target) or not 0.0 <= target <= 1.0:
        return f"target_state_of_charge: expected 0 to 1, got {target}"
    if target and math.isnan(state_of_charge):
        return "target_state_of_charge: the battery does not say its state of charge"
    if target and state_of_charge >= target:
        return f"target_state_of_charge: {target:.3f} is reached, the battery has {state_of_charge:.3f}"
    if goal.deadline.sec < 0 or (goal.deadline.sec and goal.deadline.sec <= now_s):
        return f"deadline: {goal.deadline.sec} s (Unix) is over, now is {now_s:.0f}"
    return ""
