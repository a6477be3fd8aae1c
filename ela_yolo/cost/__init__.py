"""Measures the cost of ELA: parameters, FLOPs, latency and memory, beside the plain model."""
