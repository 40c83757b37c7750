"""What a run's answers are like, before anybody trains on them.

coverage   rows by value of each axis: what is there, and what is missing
texts      lengths, openings, diversity of the answers
collect    one pass over the run's files -> Report
charts     bars as SVG
page       a report as one self-contained HTML page
"""
