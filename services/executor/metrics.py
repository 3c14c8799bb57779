"""What the executor counts."""

from prometheus_client import Counter, Gauge, Histogram

ENDS = Counter("skeldir_executor_ends", "Deliveries ended, by event type.", ["type"])
CACHE_LOOKUPS = Counter("skeldir_executor_cache_lookups", "Looks into the cache, by what came of them.", ["result"])
IN_FLIGHT = Gauge("skeldir_executor_in_flight", "Deliveries being performed.")
PROVIDER_SECONDS = Histogram("skeldir_provider_seconds", "Time of a provider call, failures included.", ["provider"])
LATE_RESULTS = Counter("skeldir_executor_late_results", "Results that came after their task had ended.")
TAKEN_OVER = Counter("skeldir_executor_taken_over", "Deliveries taken over from executors that went silent.")
