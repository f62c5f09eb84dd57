"""Multi-fidelity: rungs, who goes on from one to the next, and how far a rung is trusted."""
