#!/usr/bin/env bash
# In the container of Containerfile: the tests that need a whole ROS installation, then the acceptance suite against
# Gazebo. acceptance.sh [FOLDER]: where the signed report and every log go. Not run yet; see the Containerfile.
set -eo pipefail
out=${1:-/out}
mkdir -p "$out"

source "/opt/ros/${ROS_DISTRO:-jazzy}/setup.bash"
source /opt/depai/venv/bin/activate
source /opt/depai/ws/install/setup.bash
set -u
cd /opt/depai/ws/src/depai_robot

echo "== the real launch and Nav2's own action types"
python -m pytest -o addopts=--import-mode=importlib -W default -q -rs \
    test/ros/test_launch_files.py \
    test/ros/test_nodes_nav2_docking.py \
    test/ros/test_nodes_gazebo_relay.py

echo "== Gazebo, headless"
# launch ends its processes on SIGINT (on SIGTERM it leaves them behind), which a script's jobs ignore but for set -m.
set -m
ros2 launch depai_robot gazebo.launch.py headless:=true dishonest:=over-meter "site:=$out/site" \
    > "$out/launch.log" 2>&1 &
launch=$!
finish() {
    kill -INT "$launch" 2>/dev/null || true
    wait "$launch" 2>/dev/null || true
    tail -n 60 "$out/launch.log"
}
trap finish EXIT

# The wallet buys by itself first, since the battery begins low; each session is minutes where the CPU renders. A broker
# that is stopped is a network that is silent. The launch file starts the killed wallet again. [l]: not this command.
echo "== acceptance"
depai-robot acceptance --target gazebo --out "$out" --robot rover-1 --timeout 1800 \
    --station st-near --cheat-station st-far \
    --cut-command "pkill -STOP -x mosquitto" --restore-command "pkill -CONT -x mosquitto" \
    --kill-command "pkill -KILL -f [l]ib/depai_robot/wallet"
