"""What `make demo` adds to the pipeline: logs, a tiny model and a scripted teacher, all written here."""
