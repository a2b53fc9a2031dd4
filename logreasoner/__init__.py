"""What data_builders and eval share: records, prompts, answers, declarations, chat."""
