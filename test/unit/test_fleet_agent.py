"""The VDA 5050 agent, both versions: every message that it sends in any test here is checked against the standard."""

import json

import pytest

from depai_robot.fleet.agent import initial_state, step
from depai_robot.fleet.agent_state import (
    ActionsReceived,
    ChargeAnswered,
    Connected,
    ConnectionLost,
    ConnectionTried,
    OrderReceived,
    Publish,
    RequestCharge,
    RequestRefused,
    SetPause,
    SetWill,
    StatusObserved,
    StopAsked,
    StopCharge,
    TimePassed,
)
from depai_robot.fleet.profile import Profile
from depai_robot.fleet.request import RefusedRequestError, read_instant_actions, read_order
from depai_robot.fleet.status import Charge, Motion, Place, Status, Trouble
from depai_robot.values.error import ConfigError
from test.vda_check import check, validator

NOW_MS = 1_800_000_000_000
CHARGING = Status(
    charge_percent=41.5,
    charging=True,
    charge=Charge("s1", "CHARGING", "station_a", 1200, 400, 310_000, ended=False),
)


class Bench:
    """An agent, its clock, and all it sent, checked."""

    def __init__(self, version="2.1.0", **changes):
        self.profile = Profile(
            manufacturer="depai",
            serial="robot-1",
            version=version,
            stations_by_node={"dock_a": "station_a", "dock_b": "station_b"},
            **changes,
        )
        self.state = initial_state(self.profile)
        self.now_ms = NOW_MS
        self.sent = []
        self.wishes = []

    def tell(self, kind, *fields, later_ms=1):
        self.now_ms += later_ms
        self.state, effects = step(self.state, kind(self.now_ms, *fields))
        self.sent = []
        for effect in effects:
            if isinstance(effect, Publish):
                body = check(effect.topic, effect.payload)
                name = effect.topic.rsplit("/", 1)[1]
                assert effect.retain == (name in ("connection", "factsheet"))
                assert effect.reliable == (name == "connection")
                self.sent.append((name, body))
        self.wishes = [effect for effect in effects if not isinstance(effect, Publish)]
        return self

    def ready(self, status=None):
        self.tell(ConnectionTried).tell(Connected)
        return self.tell(StatusObserved, status or Status(charge_percent=50.0))

    def body(self, name="state"):
        return next(body for kind, body in reversed(self.sent) if kind == name)

    def names(self):
        return [name for name, _ in self.sent]

    def head(self):
        return {
            "headerId": 7,
            "timestamp": "2026-01-01T00:00:00.000Z",
            "version": self.profile.version,
            "manufacturer": "depai",
            "serialNumber": "robot-1",
        }

    def ask(self, *kinds, ids=None, later_ms=1, parameters=()):
        body = self.head() | {
            "actions": [
                {
                    "actionType": kind,
                    "actionId": (ids or kinds)[number],
                    "blockingType": "NONE",
                    "actionParameters": list(parameters),
                }
                for number, kind in enumerate(kinds)
            ]
        }
        validator(self.profile.version, "instantActions").validate(body)
        request = read_instant_actions(json.dumps(body).encode())
        return self.tell(ActionsReceived, request, later_ms=later_ms)

    def order(self, node="dock_a", order_id="o1", update=0, action="startCharging", **changes):
        actions = (
            []
            if action is None
            else [{"actionType": action, "actionId": f"{order_id}-a", "blockingType": "HARD"}]
        )
        body = (
            self.head()
            | {"orderId": order_id, "orderUpdateId": update, "edges": []}
            | {"nodes": [{"nodeId": node, "sequenceId": 0, "released": True, "actions": actions}]}
            | changes
        )
        return self.tell(OrderReceived, read_order(json.dumps(body).encode()))

    def action(self, action_id):
        body = self.body()
        items = body["actionStates"] + body.get("instantActionStates", [])
        return next(item for item in items if item["actionId"] == action_id)

    def error(self, index=-1):
        error = self.body()["errors"][index]
        return error["errorType"], {
            item["referenceKey"]: item["referenceValue"] for item in error["errorReferences"]
        }


@pytest.fixture(params=["2.1.0", "3.0.0"])
def bench(request):
    return Bench(request.param)


def test_connection_is_greeted_and_left_with_rising_header_ids(bench):
    bench.tell(ConnectionTried)
    (will,) = bench.wishes
    assert isinstance(will, SetWill)
    broken = check(will.topic, will.payload)
    assert (
        broken["connectionState"]
        == {"2.1.0": "CONNECTIONBROKEN", "3.0.0": "CONNECTION_BROKEN"}[bench.profile.version]
    )
    bench.tell(Connected)
    assert bench.names() == ["connection", "factsheet"]
    online = bench.body("connection")
    assert online["connectionState"] == "ONLINE"
    assert online["headerId"] + 1 == broken["headerId"]
    bench.tell(ConnectionLost).tell(ConnectionTried, later_ms=5000)
    again = check(bench.wishes[0].topic, bench.wishes[0].payload)
    assert again["headerId"] > broken["headerId"]
    assert again["timestamp"] > broken["timestamp"]
    bench.tell(Connected)
    assert bench.body("connection")["headerId"] == broken["headerId"] + 1
    bench.tell(StopAsked)
    offline = bench.body("connection")
    assert offline["connectionState"] == "OFFLINE"
    assert offline["headerId"] == again["headerId"]


def test_a_program_started_anew_does_not_repeat_the_id_of_a_retained_message():
    first, second = Bench(), Bench()
    first.tell(Connected)
    second.tell(Connected, later_ms=3000)
    assert second.body("connection")["headerId"] != first.body("connection")["headerId"]


def test_nothing_is_stated_before_the_robot_knows_itself_or_while_it_is_cut_off(bench):
    bench.tell(Connected).tell(TimePassed, later_ms=60_000)
    assert bench.names() == []
    bench.tell(StatusObserved, Status(charge_percent=50.0))
    assert bench.names() == ["state"]
    bench.tell(ConnectionLost).tell(StatusObserved, CHARGING)
    assert bench.names() == []
    bench.tell(Connected)
    assert bench.names() == ["connection", "factsheet", "state"]


def test_state_comes_every_30_s_at_the_latest_and_on_events_only(bench):
    bench.ready()
    first = bench.body()["headerId"]
    for _ in range(29):
        bench.tell(StatusObserved, Status(charge_percent=49.9), later_ms=1000)
        assert bench.names() == []
    bench.tell(TimePassed, later_ms=1000)
    assert bench.body()["headerId"] == first + 1
    bench.tell(StatusObserved, Status(charge_percent=49.9, driving=True))
    assert bench.body()["driving"] is True


def test_a_clock_that_goes_back_does_not_silence_it(bench):
    bench.ready().tell(TimePassed, later_ms=-3_600_000)
    assert bench.names() == ["state"]


def test_state_says_all_that_is_known(bench):
    status = Status(
        charge_percent=41.456,
        voltage_v=24.12345,
        current_a=3.3,
        charging=True,
        place=Place(1.23456, -2.0, 0.5),
        motion=Motion(0.25, 0.1),
        e_stop=True,
        charge=Charge("s1", "CHARGING", "station_a", 1200, 400, 310_000, ended=False, fault="meter"),
        spent_today_atomic=5,
        budget_today_atomic=9,
        troubles=(Trouble("depai.camera", "no picture for 5 s", fatal=True),),
    )
    body = bench.ready(status).body()
    (entry,) = body["information"]
    found = {item["referenceKey"]: item["referenceValue"] for item in entry["infoReferences"]}
    assert found["phase"] == "CHARGING"
    assert found["cost_atomic"] == "400"
    assert found["budget_today_atomic"] == "9"
    assert body["errors"][0]["errorLevel"] == "FATAL"
    if bench.profile.is_v3:
        assert body["powerSupply"]["batteryCurrent"] == 3.3
        assert body["safetyState"]["activeEmergencyStop"] == "MANUAL"
    else:
        assert body["batteryState"]["batteryCharge"] == 41.46
        assert body["agvPosition"]["x"] == 1.2346


def test_visualization_when_it_is_wanted():
    for version in ("2.1.0", "3.0.0"):
        bench = Bench(version, visualization_period_s=1.0).ready(Status(place=Place(1, 2, 0)))
        assert bench.names() == ["state", "visualization"]
        assert bench.tell(TimePassed, later_ms=500).names() == []
        assert bench.tell(TimePassed, later_ms=600).names() == ["visualization"]


def test_start_charging_goes_from_initializing_to_finished(bench):
    bench.ready().ask("startCharging", ids=["a1"])
    assert bench.wishes == [RequestCharge("a1")]
    assert bench.action("a1")["actionStatus"] == "INITIALIZING"
    bench.tell(ChargeAnswered, "a1", "s1")
    bench.tell(StatusObserved, Status(driving=True, charge=Charge("s1", "DOCKING", "station_a", ended=False)))
    assert bench.action("a1")["actionStatus"] == "RUNNING"
    bench.tell(StatusObserved, CHARGING)
    assert bench.action("a1")["actionStatus"] == "FINISHED"
    bench.ask("startCharging", ids=["a2"])
    assert bench.wishes == []
    assert bench.action("a2")["actionStatus"] == "FINISHED"


def test_an_action_that_comes_twice_is_done_once(bench):
    bench.ready().ask("startCharging", ids=["a1"]).ask("startCharging", ids=["a1"])
    assert bench.wishes == []
    assert bench.names() == []
    bench.ask("startCharging", ids=["a2"])
    assert bench.wishes == []
    bench.tell(ChargeAnswered, "a1", "s1").tell(StatusObserved, CHARGING)
    assert {bench.action(name)["actionStatus"] for name in ("a1", "a2")} == {"FINISHED"}


@pytest.mark.parametrize("way", ["refused", "ended", "silent"])
def test_start_charging_fails_with_an_error_that_names_it(bench, way):
    bench.ready().ask("startCharging", ids=["a1"])
    if way == "refused":
        bench.tell(ChargeAnswered, "a1", "", "the battery does not answer")
    else:
        bench.tell(ChargeAnswered, "a1", "s1")
    if way == "ended":
        charge = Charge("s1", "CALLING_FOR_HELP", ended=True, fault="no-offer")
        bench.tell(StatusObserved, Status(charge=charge))
    if way == "silent":
        bench.tell(TimePassed, later_ms=61_000)
    assert bench.action("a1")["actionStatus"] == "FAILED"
    kind, references = bench.error()
    assert kind == "depai.actionFailed"
    assert references["actionId"] == "a1"
    bench.ask("stateRequest", ids=["r"])
    assert bench.body()["errors"] == []


def test_stop_charging(bench):
    bench.ready(CHARGING).ask("stopCharging", ids=["x"])
    assert bench.wishes == [StopCharge()]
    assert bench.action("x")["actionStatus"] == "RUNNING"
    bench.tell(StatusObserved, Status(charge=Charge("s1", "SETTLED", "station_a", ended=True)))
    assert bench.action("x")["actionStatus"] == "FINISHED"
    bench.ask("stopCharging", ids=["y"])
    assert bench.wishes == []
    assert bench.action("y")["actionStatus"] == "FINISHED"


def test_requests_are_answered_at_once(bench):
    bench.ready().ask("stateRequest", "factsheetRequest")
    assert sorted(bench.names()) == ["factsheet", "state"]
    assert bench.action("stateRequest")["actionStatus"] == "FINISHED"


def test_unknown_actions_and_those_that_the_base_can_not_do_are_refused(bench):
    bench.ready().ask("liftFork", "startPause")
    for name in ("liftFork", "startPause"):
        assert bench.action(name)["actionStatus"] == "FAILED"
    kind, references = bench.error()
    assert kind == {"2.1.0": "instantActionError", "3.0.0": "INVALID_INSTANT_ACTION"}[bench.profile.version]
    assert references["actionId"] == "startPause"
    bench.ask("startCharging", ids=["p"], parameters=[{"key": "amount", "value": 5}])
    assert bench.action("p")["actionStatus"] == "FAILED"
    assert bench.wishes == []


def test_pause_where_the_base_can():
    bench = Bench(can_pause=True).ready().ask("startPause")
    assert bench.wishes == [SetPause(paused=True)]
    assert bench.action("startPause")["actionStatus"] == "RUNNING"
    bench.tell(StatusObserved, Status(paused=True))
    assert bench.action("startPause")["actionStatus"] == "FINISHED"
    assert bench.body()["paused"]
    bench.ask("stopPause").tell(TimePassed, later_ms=31_000)
    assert bench.action("stopPause")["actionStatus"] == "FAILED"


def test_clear_instant_actions_is_3_0_only():
    old, new = Bench("2.1.0").ready(), Bench("3.0.0").ready()
    assert old.ask("clearInstantActions").action("clearInstantActions")["actionStatus"] == "FAILED"
    new.ask("stateRequest").ask("clearInstantActions")
    assert [item["actionId"] for item in new.body()["instantActionStates"]] == ["clearInstantActions"]


def test_an_order_to_a_dock_is_done_when_it_charges_there(bench):
    bench.ready().order()
    assert bench.wishes == [RequestCharge("order:o1", "station_a")]
    assert [item["nodeId"] for item in bench.body()["nodeStates"]] == ["dock_a"]
    bench.tell(ChargeAnswered, "order:o1", "s1")
    assert bench.action("o1-a")["actionStatus"] == "INITIALIZING"
    bench.order()
    assert bench.names() == []
    assert bench.wishes == []
    bench.tell(StatusObserved, Status(driving=True, charge=Charge("s1", "DOCKING", "station_a", ended=False)))
    assert bench.action("o1-a")["actionStatus"] == "RUNNING"
    bench.tell(StatusObserved, CHARGING)
    body = bench.body()
    assert body["nodeStates"] == []
    assert body["lastNodeId"] == "dock_a"
    assert body["orderId"] == "o1"
    assert bench.action("o1-a")["actionStatus"] == "FINISHED"


V2_WORDS = {"order": "orderError", "outdated": "orderUpdateError"}


@pytest.mark.parametrize(
    ("changes", "two", "three"),
    [
        ({"node": "n7"}, "orderError", "NO_ROUTE_TO_TARGET"),
        ({"action": "pick"}, "orderError", "INVALID_ORDER_ACTION"),
        ({"action": None}, "orderError", "INVALID_ORDER_ACTION"),
        ({"nodes": []}, "orderError", "INVALID_ORDER"),
        ({"edges": [{"edgeId": "e", "sequenceId": 1}]}, "orderError", "INVALID_ORDER"),
        ({"serialNumber": "robot-2"}, "validationError", "VALIDATION_FAILURE"),
        ({"zoneSetId": "z"}, "orderError", "UNSUPPORTED_PARAMETER"),
    ],
)
def test_orders_that_it_can_not_do_are_rejected_as_the_standard_says(bench, changes, two, three):
    bench.ready().order(**changes)
    assert bench.wishes == []
    assert bench.body()["orderId"] == ""
    kind, references = bench.error()
    assert kind == (three if bench.profile.is_v3 else two)
    assert references["orderId"] == "o1"
    assert references["orderUpdateId"] == "0"
    bench.order(order_id="o2")
    assert bench.body()["errors"] == []
    assert bench.body()["orderId"] == "o2"


def test_a_second_order_and_old_updates_are_rejected(bench):
    bench.ready().order(update=3).order(order_id="o2")
    assert bench.error()[0] == ("OTHER_ORDER_ACTIVE" if bench.profile.is_v3 else "orderError")
    bench.order(update=2)
    assert bench.error()[0] == ("OUTDATED_ORDER_UPDATE" if bench.profile.is_v3 else "orderUpdateError")
    assert bench.body()["orderId"] == "o1"
    assert bench.body()["orderUpdateId"] == 3
    bench.order(update=4)
    assert bench.wishes == []
    assert bench.body()["orderUpdateId"] == 4
    before = len(bench.state.faults)
    bench.order(update=4, node="dock_b")
    assert len(bench.state.faults) == before + bench.profile.is_v3


def test_cancel_order(bench):
    bench.ready().ask("cancelOrder", ids=["c0"])
    assert bench.action("c0")["actionStatus"] == "FAILED"
    kind, references = bench.error()
    assert kind == ("NO_ORDER_TO_CANCEL" if bench.profile.is_v3 else "noOrderToCancel")
    assert references["actionId"] == "c0"
    bench.order().tell(ChargeAnswered, "order:o1", "s1")
    moving = Status(driving=True, charge=Charge("s1", "DOCKING", "station_a", ended=False))
    bench.tell(StatusObserved, moving).ask("cancelOrder", ids=["c1"])
    assert bench.wishes == [StopCharge()]
    assert bench.body()["nodeStates"] == []
    assert bench.action("c1")["actionStatus"] == "RUNNING"
    assert bench.action("o1-a")["actionStatus"] == "FAILED"
    bench.tell(StatusObserved, Status(charge=Charge("s1", "SETTLED", "station_a", ended=True)))
    assert bench.action("c1")["actionStatus"] == "FINISHED"
    assert bench.body()["orderId"] == "o1"
    bench.order(update=1)
    assert bench.error()[0] == (
        "ORDER_UPDATE_FOLLOWING_CANCEL" if bench.profile.is_v3 else "orderUpdateError"
    )


def test_an_order_whose_dock_does_not_serve_fails(bench):
    bench.ready().order().tell(ChargeAnswered, "order:o1", "s1")
    bench.tell(StatusObserved, Status(charge=Charge("s1", "CALLING_FOR_HELP", ended=True, fault="no-offer")))
    assert bench.action("o1-a")["actionStatus"] == "FAILED"
    assert bench.error()[0] == ("NODE_UNREACHABLE" if bench.profile.is_v3 else "orderError")
    assert bench.error()[1]["nodeId"] == "dock_a"
    assert bench.order(order_id="o2").body()["orderId"] == "o2"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"{}",
        b"[" * 100_000,
        b'{"orderId": "o9", "orderUpdateId": 2}',
        b'{"a": ' + b'"x"' * 100_000,
    ],
)
def test_malformed_requests_are_reported_never_obeyed(bench, payload):
    with pytest.raises(RefusedRequestError) as refusal:
        read_order(payload)
    with pytest.raises(RefusedRequestError):
        read_instant_actions(payload)
    bench.ready().tell(
        RequestRefused, bench.profile.topic("order"), str(refusal.value), refusal.value.references
    )
    kind, references = bench.error()
    assert kind == ("VALIDATION_FAILURE" if bench.profile.is_v3 else "validationError")
    assert ("orderId" in references) == (b"o9" in payload)


def test_a_flood_is_bounded(bench):
    bench.ready()
    for number in range(700):
        bench.ask("liftFork", ids=[f"i{number}"])
    assert len(bench.state.actions) <= 32
    assert len(bench.state.seen) <= 512
    assert len(bench.state.faults) <= 16


def test_profile_refuses_what_is_no_topic_level():
    for serial in ("", "a/b", "+", "#", "x" * 65, "ä"):
        with pytest.raises(ConfigError):
            Profile(manufacturer="depai", serial=serial)
