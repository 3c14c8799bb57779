"""Circuit breakers of models across tenants: decided in one place, from the outcomes of all partitions."""
