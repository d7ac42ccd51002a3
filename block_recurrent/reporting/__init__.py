"""Output of a run's metrics: metrics.jsonl, TensorBoard, Weights & Biases, Prometheus, plots.

May import `files`.
"""
