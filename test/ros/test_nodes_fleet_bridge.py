"""The fleet bridge: a real broker, real rclpy, and a wallet node's topics and action played by the test."""

import json

import pytest

pytest.importorskip("rclpy", reason="pip install 'depai_robot[ros]', or source a ROS 2 installation")
pytest.importorskip(
    "depai_interfaces", reason="tools/build_interfaces.py builds them; it needs a C++ compiler"
)

from nav_msgs.msg import Odometry
from rclpy.action import ActionServer
from rclpy.parameter import Parameter
from sensor_msgs.msg import BatteryState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from depai_interfaces.action import Charge
from depai_interfaces.msg import ChargingSession
from depai_robot.adapters.broker_process import find_mosquitto, start_broker
from depai_robot.adapters.paho_broker import BrokerAddress
from depai_robot.adapters.paho_feed import PahoFeed
from depai_robot.nodes.fleet_bridge import FleetBridgeNode
from depai_robot.nodes.quality import LATCHED
from test.ros.test_nodes_interface import compare
from test.vda_check import check

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
TOPIC = "uagv/v2/depai/robot-1"


def test_a_fleet_charges_and_stops_this_robot(ros, tmp_path):
    broker = start_broker(tmp_path / "broker", "mosquitto")
    config = tmp_path / "fleet.yaml"
    config.write_text(
        f"v: 1\nbroker: {{host: 127.0.0.1, port: {broker.port}}}\nrobot: {{manufacturer: depai, serial: robot-1}}\n"
    )
    other = ros.node("other")
    battery = other.create_publisher(BatteryState, "battery_state", 10)
    odometry = other.create_publisher(Odometry, "odom", 10)
    phases = other.create_publisher(String, "wallet/phase", LATCHED)
    sessions = other.create_publisher(ChargingSession, "wallet/session", LATCHED)
    now = {"current": -1.0}
    goals = []

    def tick():
        battery.publish(BatteryState(voltage=24.0, current=now["current"], percentage=0.4))
        message = Odometry()
        message.pose.pose.orientation.w = 1.0
        odometry.publish(message)

    def execute(goal):
        goals.append(goal.request.station)
        sessions.publish(ChargingSession(session="s1", phase="CHARGING", station="station_a", cost_atomic=7))
        phases.publish(String(data="CHARGING"))
        now["current"] = 3.0
        goal.succeed()
        return Charge.Result()

    def stop(_request, response):
        now["current"] = -1.0
        sessions.publish(ChargingSession(session="s1", phase="SETTLED", station="station_a", cost_atomic=9))
        response.success = True
        return response

    other.create_timer(0.05, tick)
    other.create_service(Trigger, "wallet/stop", stop)
    server = ActionServer(other, Charge, "wallet/charge_battery", execute_callback=execute)
    feed = PahoFeed(BrokerAddress("127.0.0.1", broker.port))
    feed.subscribe(f"{TOPIC}/connection", f"{TOPIC}/state")
    feed.start()
    heard = []

    def hear(name, fits):
        def look():
            for topic, payload, _ in feed.take(100):
                heard.append((topic.rsplit("/", 1)[1], check(topic, payload)))
            return any(kind == name and fits(body) for kind, body in heard)

        ros.until(look, 20)
        return heard[-1][1]

    def send(kind, action_id):
        head = {"headerId": 1, "timestamp": "2026-01-01T00:00:00.000Z", "version": "2.1.0"}
        action = {"actionType": kind, "actionId": action_id, "blockingType": "NONE"}
        body = head | {"manufacturer": "depai", "serialNumber": "robot-1", "actions": [action]}
        feed.publish(f"{TOPIC}/instantActions", json.dumps(body).encode())

    def finished(action_id):
        return lambda body: (
            {"actionId": action_id, "actionStatus": "FINISHED"}.items()
            <= next((item for item in body["actionStates"] if item["actionId"] == action_id), {}).items()
        )

    node = FleetBridgeNode()
    node.set_parameters([Parameter("config", value=str(config))])
    ros.add(node)
    compare(node, "fleet_bridge", ignore=("/clock",))
    try:
        hear("connection", lambda body: body["connectionState"] == "ONLINE")
        hear("state", lambda body: body["agvPosition"]["mapId"] == "map")
        ros.until(node._action.server_is_ready)
        send("startCharging", "a1")
        hear("state", finished("a1"))
        assert goals == [""]
        hear("state", lambda body: body["batteryState"]["charging"])
        ros.until(node._stop_client.service_is_ready)
        send("stopCharging", "a2")
        hear("state", finished("a2"))
        node.trigger_deactivate()
        hear("connection", lambda body: body["connectionState"] == "OFFLINE")
    finally:
        node.pause()
        server.destroy()
        feed.close()
        broker.stop()
