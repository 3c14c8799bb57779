"""The four services. Each imports `shared`; none imports another."""
