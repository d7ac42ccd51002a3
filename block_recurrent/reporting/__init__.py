"""Where metrics go: metrics.jsonl, TensorBoard, Weights & Biases, Prometheus, plots, HTML pages.

May import `files`.
"""
