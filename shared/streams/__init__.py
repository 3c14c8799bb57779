"""The log: connections, leases and fenced commits, consumer groups, the control reader, and dead letters."""
