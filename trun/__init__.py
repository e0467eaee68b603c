"""Run this when that is done: jobs gated by conditions, on a laptop, on cluster nodes, or both."""
