"""The three qualities of service that the nodes use (docs: QoS table of the ROS API page)."""

from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy

STATE = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.RELIABLE)
"""State out: reliable. Nav2's docking server subscribes so; a best-effort publisher never connects to it."""

LATCHED = QoSProfile(
    depth=1, reliability=QoSReliabilityPolicy.RELIABLE, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL
)
"""The last value for whoever comes later."""


def image_quality(*, reliable: bool) -> QoSProfile:
    """Newest image only.

    With Fast DDS's default shared-memory segment, best-effort images of 900 KB are mostly lost between
    processes, so reliable is the default; a driver that publishes best effort wants ``image_reliable: false``.
    """
    return QoSProfile(
        depth=1,
        history=QoSHistoryPolicy.KEEP_LAST,
        reliability=QoSReliabilityPolicy.RELIABLE if reliable else QoSReliabilityPolicy.BEST_EFFORT,
    )
