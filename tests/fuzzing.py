"""What the tests of bad input share."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase

FUZZED = {  # the same inputs at every run, on every machine
    "derandomize": True,
    "deadline": None,
    "database": None,
    "phases": [Phase.explicit, Phase.generate],
    "suppress_health_check": list(HealthCheck),
}
