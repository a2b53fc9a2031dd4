"""What our commands are measured against, each a script of its own so that its start-up counts too."""
