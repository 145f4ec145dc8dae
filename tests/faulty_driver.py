"""A driver that tests can end as they like: `faulty_driver.py FOLDER SHARDS SECONDS_A_STEP [CLUSTER_AS_JSON]`."""

import json
import sys
from functools import partial
from pathlib import Path

import ray
from fault_trial import Trial
from faulty_training import own_address

if __name__ == "__main__":
    # Ray would take the head's node for this one: it looks at the machine's processes, and the nodes are one machine.
    ray.init = partial(ray.init, _node_ip_address=own_address())
    folder, shards, seconds, *cluster = sys.argv[1:]
    trial = Trial(folder=Path(folder), shards=Path(shards), undisturbed=None)
    trial.cluster.update(*map(json.loads, cluster))
    try:
        result = trial.train(seconds=float(seconds))
    except OSError as error:
        sys.exit(f"error: {error}")
    print(f"ended at step {result.step}")
    sys.exit(result.exit_code)
