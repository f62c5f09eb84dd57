"""One candidate from dense model to scored result: what a trial, ``apply`` and a test run."""
