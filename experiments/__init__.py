"""What was measured, each in a folder with its question, script, data and result."""
