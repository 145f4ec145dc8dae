"""A driver that tests can end as they like: `faulty_driver.py FOLDER SHARDS SECONDS_A_STEP [CLUSTER_AS_JSON]`."""

import json
import sys
from pathlib import Path

from fault_trial import Trial

if __name__ == "__main__":
    folder, shards, seconds, *cluster = sys.argv[1:]
    trial = Trial(folder=Path(folder), shards=Path(shards), undisturbed=None)
    trial.cluster.update(*map(json.loads, cluster))
    try:
        result = trial.train(seconds=float(seconds))
    except OSError as error:
        sys.exit(f"error: {error}")
    print(f"ended at step {result.step}")
    sys.exit(result.exit_code)
