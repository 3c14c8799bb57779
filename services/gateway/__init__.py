"""The gateway: the doors. Accepts tasks durably, answers those who wait, and hands operators' orders on."""
