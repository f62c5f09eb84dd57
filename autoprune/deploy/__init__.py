"""What leaves the house: checkpoints with their cards, and scores of them."""
