"""What a search leaves on disk, for the one that resumes it and for those who read it."""
