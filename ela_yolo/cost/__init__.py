"""What ELA costs: parameters, FLOPs, latency and memory, beside the plain model."""
