"""ROS 2 nodes: thin, and the only place with rclpy."""
