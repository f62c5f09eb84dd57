"""From knobs to candidates: sizes to sample, plans that meet them exactly, and their neighbours."""
