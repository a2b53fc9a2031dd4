"""Requests to predictions, predictions to scores, scores to tables."""
