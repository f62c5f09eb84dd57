"""Worker processes on Ray: the session, what they share, a trial, and other work."""
