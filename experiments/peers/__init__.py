"""Plans of other methods against AutoPrune's, at equal parameters and at equal cost."""
