"""Tests run on the CPU, two devices' worth of threads at most, with strict numbers; nothing leaves the machine."""

import os

# Before jax is imported: its back end is chosen once per process.
os.environ["JAX_PLATFORMS"] = os.environ.get("TEST_PLATFORM", "cpu")  # launch/bench_gpu.sh asks for another
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")
