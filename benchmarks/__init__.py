"""Measurements side by side: ours, the least that pyzmq can do, and any other program. Ratios of one run count."""
