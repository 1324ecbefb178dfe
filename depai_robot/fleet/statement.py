"""From the agent's state to the messages of its version: connection, state, visualization, factsheet."""

from collections.abc import Iterable
from datetime import datetime, timezone
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from depai_robot.fleet import report
from depai_robot.fleet.agent_state import AgentState, Doing, Fault
from depai_robot.fleet.profile import Profile
from depai_robot.fleet.report import Level, Reference
from depai_robot.fleet.status import Status, Trouble

INFO_TYPE = "depai.charging"


class ErrorWord(NamedTuple):
    """Type and level of an error in both versions."""

    type_2: str
    type_3: str
    level_3: Level = "WARNING"


# 2.1.0 § 6.6.4 names four types; 3.0.0 § 6.6.5.4 has a table. In 2.1.0 all of these are warnings.
ERROR_WORDS: dict[str, ErrorWord] = {
    "malformed": ErrorWord("validationError", "VALIDATION_FAILURE"),
    "order": ErrorWord("orderError", "INVALID_ORDER"),
    "order-action": ErrorWord("orderError", "INVALID_ORDER_ACTION"),
    "parameter": ErrorWord("orderError", "UNSUPPORTED_PARAMETER", "CRITICAL"),
    "busy": ErrorWord("orderError", "OTHER_ORDER_ACTIVE"),
    "mode": ErrorWord("orderError", "MOBILE_ROBOT_NOT_AVAILABLE"),
    "no-route": ErrorWord("orderError", "NO_ROUTE_TO_TARGET"),
    "unreached": ErrorWord("orderError", "NODE_UNREACHABLE", "CRITICAL"),
    "outdated": ErrorWord("orderUpdateError", "OUTDATED_ORDER_UPDATE"),
    "same": ErrorWord("orderUpdateError", "SAME_ORDER_UPDATE_ID"),
    "after-cancel": ErrorWord("orderUpdateError", "ORDER_UPDATE_FOLLOWING_CANCEL"),
    "no-order": ErrorWord("noOrderToCancel", "NO_ORDER_TO_CANCEL"),
    "action": ErrorWord("instantActionError", "INVALID_INSTANT_ACTION"),
    "action-failed": ErrorWord("depai.actionFailed", "depai.actionFailed"),
}


def timestamp(at_ms: int) -> str:
    """ISO 8601 in UTC with milliseconds and Z."""
    moment = datetime.fromtimestamp(at_ms // 1000, tz=timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def header(profile: Profile, header_id: int, at_ms: int) -> dict[str, object]:
    """Fields of report.Header."""
    return {
        "header_id": header_id,
        "timestamp": timestamp(at_ms),
        "version": profile.version,
        "manufacturer": profile.manufacturer,
        "serial_number": profile.serial,
    }


def connection(profile: Profile, word: str, header_id: int, at_ms: int) -> bytes:
    """Encoded; ``word`` is that of 2.1.0."""
    if profile.is_v3 and word == "CONNECTIONBROKEN":
        word = "CONNECTION_BROKEN"
    return report.encode(report.Connection(**header(profile, header_id, at_ms), connection_state=word))  # type: ignore[arg-type]


def state_message(state: AgentState, header_id: int, at_ms: int) -> bytes:
    """A state, encoded."""
    profile, status, task = state.profile, state.status, state.task
    nodes = (
        (report.NodeState(node_id=task.node_id, sequence_id=task.sequence_id, released=True),)
        if task.phase == "active"
        else ()
    )
    common = header(profile, header_id, at_ms) | {
        "order_id": task.order_id,
        "order_update_id": task.update_id,
        "last_node_id": state.last_node_id,
        "last_node_sequence_id": state.last_node_sequence_id,
        "driving": status.driving,
        "paused": status.paused,
        "operating_mode": status.mode,
        "node_states": nodes,
        "edge_states": (),
        "errors": _errors(state),
        "velocity": _velocity(status),
    }
    battery = {
        "battery_voltage": UNSET if status.voltage_v is None else round(status.voltage_v, 3),
        "charging": status.charging,
    }
    percent = round(min(100.0, max(0.0, status.charge_percent)), 2)
    references = _references(charging_references(status).items())
    if not profile.is_v3:
        return report.encode(
            report.State2(
                **common,  # type: ignore[arg-type]
                agv_position=_position_2(profile, status),
                action_states=tuple(_action_2(item) for item in state.actions),
                battery_state=report.Battery2(battery_charge=percent, **battery),  # type: ignore[arg-type]
                information=(
                    report.Information2(info_type=INFO_TYPE, info_references=references, info_level="INFO"),
                ),
                safety_state=report.Safety2(
                    e_stop="MANUAL" if status.e_stop else "NONE", field_violation=status.field_violation
                ),
            )
        )
    current = UNSET if status.current_a is None else round(status.current_a, 3)
    return report.encode(
        report.State3(
            **common,  # type: ignore[arg-type]
            mobile_robot_position=_position_3(profile, status),
            action_states=tuple(_action_3(item) for item in state.actions if not item.instant),
            instant_action_states=tuple(_action_3(item) for item in state.actions if item.instant),
            power_supply=report.Power3(state_of_charge=percent, battery_current=current, **battery),  # type: ignore[arg-type]
            information=(
                report.Information3(info_type=INFO_TYPE, info_references=references, info_level="INFO"),
            ),
            safety_state=report.Safety3(
                active_emergency_stop="MANUAL" if status.e_stop else "NONE",
                field_violation=status.field_violation,
            ),
        )
    )


def visualization_message(state: AgentState, header_id: int, at_ms: int, state_header_id: int) -> bytes:
    """A visualization, encoded; ``state_header_id`` is of the last state (3.0.0)."""
    profile, status = state.profile, state.status
    common = header(profile, header_id, at_ms) | {"velocity": _velocity(status)}
    if not profile.is_v3:
        position = _position_2(profile, status)
        return report.encode(report.Visualization2(**common, agv_position=position))  # type: ignore[arg-type]
    return report.encode(
        report.Visualization3(
            **common,  # type: ignore[arg-type]
            reference_state_header_id=state_header_id,
            mobile_robot_position=_position_3(profile, status),
        )
    )


def charging_references(status: Status) -> dict[str, str]:
    """Keys and values of the information about charging; money in atomic units, energy in mWh."""
    charge = status.charge
    found = {"phase": charge.phase}
    if charge.session:
        found |= {
            "session": charge.session,
            "energy_milliwh": str(charge.energy_milliwh),
            "cost_atomic": str(charge.cost_atomic),
        }
    texts = {"station": charge.station, "fault": charge.fault, "receipt": charge.receipt}
    found |= {key: value for key, value in texts.items() if value}
    if charge.price_atomic_per_kwh:
        found["price_atomic_per_kwh"] = str(charge.price_atomic_per_kwh)
    return found | {
        "spent_today_atomic": str(status.spent_today_atomic),
        "budget_today_atomic": str(status.budget_today_atomic),
    }


def _references(pairs: Iterable[tuple[str, str]]) -> tuple[Reference, ...]:
    return tuple(Reference(reference_key=key, reference_value=value) for key, value in pairs)


def _errors(state: AgentState) -> tuple[report.Error, ...]:
    v3 = state.profile.is_v3
    faults = tuple(_fault(item, v3=v3) for item in state.faults)
    return faults + tuple(_trouble(item) for item in state.status.troubles)


def _fault(fault: Fault, *, v3: bool) -> report.Error:
    word = ERROR_WORDS[fault.kind]
    return report.Error(
        error_type=word.type_3 if v3 else word.type_2,
        error_references=_references(fault.references),
        error_description=fault.words,
        error_level=word.level_3 if v3 else "WARNING",
    )


def _trouble(trouble: Trouble) -> report.Error:
    return report.Error(
        error_type=trouble.kind,
        error_references=(),
        error_description=trouble.words,
        error_level="FATAL" if trouble.fatal else "WARNING",
    )


def _velocity(status: Status) -> report.Velocity | UnsetType:
    if status.motion is None:
        return UNSET
    return report.Velocity(
        vx=round(status.motion.linear_mps, 4), vy=0.0, omega=round(status.motion.angular_radps, 4)
    )


def _position_2(profile: Profile, status: Status) -> report.Position2 | UnsetType:
    if status.place is None:
        return UNSET
    return report.Position2(**_pose(profile, status), position_initialized=True)  # type: ignore[arg-type]


def _position_3(profile: Profile, status: Status) -> report.Position3 | UnsetType:
    if status.place is None:
        return UNSET
    return report.Position3(**_pose(profile, status), localized=True)  # type: ignore[arg-type]


def _pose(profile: Profile, status: Status) -> dict[str, object]:
    place = status.place
    if place is None:
        return {}
    return {
        "x": round(place.x_m, 4),
        "y": round(place.y_m, 4),
        "theta": round(place.yaw_rad, 5),
        "map_id": profile.map_id,
    }


def _action_2(doing: Doing) -> report.ActionState2:
    return report.ActionState2(
        action_id=doing.id,
        action_type=doing.kind,
        action_status=doing.status,
        result_description=doing.result or UNSET,
    )


def _action_3(doing: Doing) -> report.ActionState3:
    return report.ActionState3(
        action_id=doing.id,
        action_type=doing.kind,
        action_status=doing.status,
        action_result=doing.result or UNSET,
    )
