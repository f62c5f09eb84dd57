"""Recovery: short training that gives a pruned model back most of what it lost."""
