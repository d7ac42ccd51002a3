"""Where the numbers of a run go: metrics.jsonl, TensorBoard, Weights & Biases, Prometheus, plots.

May import `files`.
"""
