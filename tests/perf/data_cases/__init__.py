"""What `tests/perf/data.py` measures."""
