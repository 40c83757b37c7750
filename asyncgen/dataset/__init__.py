"""From records to a dataset: select, write, split, check, report and export."""
