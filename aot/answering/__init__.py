"""Asking: a session that reads reduced tokens once and answers, here or on a vLLM server."""
