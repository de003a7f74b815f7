"""The race: every contender from every initial learning rate, on the same data in the same order.

`contender.py` says who runs, `run.py` runs one cell, `race.py` runs them all, `score.py` makes numbers of the rows and
`page.py` one page of everything; `docs/race.md` says how to read it.
"""
