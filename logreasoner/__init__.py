"""Shared by data_builders and eval: declarations, the run, its steps, instances, prompts, answers, files."""
