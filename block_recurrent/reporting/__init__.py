"""Output of a run's metrics: metrics.jsonl, TensorBoard, Weights & Biases, Prometheus, plots, pages.

May import `files`.
"""
