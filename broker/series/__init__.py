"""The Prometheus series of the broker, one class for each part of it that counts; `metrics.py` puts them together."""
