"""Tasks: problems with their prompts, answer keys and graders. Prompts are data, and part of a task's fingerprint."""
