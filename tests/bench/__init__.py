"""Measurements on real servers and processes, each beside what it is compared with, in one run."""
