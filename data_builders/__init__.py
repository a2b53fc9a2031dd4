"""Logs to instances, instances to requests, answers to LLaMA-Factory datasets and recipes."""
