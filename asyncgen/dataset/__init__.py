"""Records to samples: chosen, written, split, checked, reported and exported."""
