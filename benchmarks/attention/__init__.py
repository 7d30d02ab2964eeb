"""The attention laboratory: what each variant costs, and what it can recall; said only of what was shown to be right.

`candidates` and `cores` say what is measured, `check` whether it is right, `protocol` how it is timed, `cost` what it
computes, reads and holds, `scaling` how that grows. `ops` and `decode` measure, and write what `record` describes;
`report` shows it as `views`, `plots` and a `page` with `bars`; `compare` holds two measurements against each other.
`quality` is a benchmark by itself, with its own tasks, sizes and views.
"""
