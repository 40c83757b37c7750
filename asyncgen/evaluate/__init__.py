"""Models and prompting techniques compared on rows that no model was trained on."""
