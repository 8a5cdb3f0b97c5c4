"""What all tests share. Threads are limited before anything heavy is imported: tests run side by side."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# A test that reaches for the network must fail at once, not wait.
os.environ["HF_HUB_OFFLINE"] = "1"

from hypothesis import HealthCheck, settings

# Shared machines pause for seconds: a deadline would report those as failures.
settings.register_profile("diffps", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("diffps")
