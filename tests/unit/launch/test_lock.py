"""Two trainings in one folder."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import tiny_config, write_shards

from detcore.launch.lock import only_training
from detcore.launch.training import train

HOLD = """
import fcntl, sys, time
with open(sys.argv[1] + "/lock", "ab") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_training_a_folder_and_none_after_kill_9(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "run", write_shards(tmp_path / "shards", train=4, val=2))
    with only_training(Path(config.run_dir)):
        pass
    with subprocess.Popen([sys.executable, "-c", HOLD, config.run_dir], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(ValueError, match=f"^another training is running in {config.run_dir}; "):
                train(config)
            assert sorted(path.name for path in Path(config.run_dir).iterdir()) == ["lock"]
            with only_training(tmp_path / "another"):
                pass
        finally:
            other.kill()
    with only_training(Path(config.run_dir)):
        pass
