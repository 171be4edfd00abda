"""A Ray cluster of our own on the loopback interface, in a process of its own: `python ray_nodes.py`.

Reads a line for each thing to do ("add", "stop") and answers each with a line of JSON. The first answer is the head's. Nodes
after it have addresses of their own (127.0.0.2, …), so that no driver attaches to a raylet that is to be killed.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

# Otherwise Ray replaces 127.0.0.1 by the machine's outer address, where nothing of ours listens.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def environment():
    """What a process needs to talk to the cluster."""
    return {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_worker_niceness": "0",
    }


def below(process):
    """The processes that this one has started, and those that they have."""
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in path.read_text().split():
            found += [int(child), *below(int(child))]
    return found


def kill(process):
    """A raylet and whatever it has started, as if their machine's power were cut; by their ids, and nothing else."""
    for each in [process, *below(process)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def serve():
    from ray.cluster_utils import Cluster

    place = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short: sockets lie below it
    # Wherever its files lie, Ray notes the head's address there, in a folder that nobody has made on a fresh machine.
    (Path(tempfile.gettempdir()) / "ray").mkdir(exist_ok=True)
    node = {"num_cpus": 1, "object_store_memory": 10**8, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "node_ip_address": "127.0.0.1", "temp_dir": place})

    def answer(node):
        raylet = node.all_processes["raylet"][0].process.pid
        print(json.dumps({"address": cluster.address, "raylet": raylet, "node": node.node_id}), flush=True)

    answer(cluster.head_node)
    count = 1
    for line in sys.stdin:
        if line.strip() == "stop":
            break
        count += 1
        answer(cluster.add_node(**node, node_ip_address=f"127.0.0.{count}"))
    for child in below(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    serve()
