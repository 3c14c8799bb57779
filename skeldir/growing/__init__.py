"""Growing the number of partitions while the system runs ([ADR 28](docs/adr/0028-growing-partitions.md)): close, drain,
fence policy off, copy, switch in one step, open, clear."""
