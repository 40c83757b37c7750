"""What a run's answers are like, before anybody trains on them.

collect    one pass over the run's files -> Report
texts      lengths, openings, diversity of the answers
quality    coverage, templates, leakage, copies, answers to read
page       a report as one self-contained HTML page
"""
