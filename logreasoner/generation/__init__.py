"""Requests -> responses: live endpoints, batches, vLLM, the response cache, costs."""
