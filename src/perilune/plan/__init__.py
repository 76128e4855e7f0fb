"""Will it fit, how fast, what does it cost: from the engine's own byte counts over measured data.

Read in this order: `figure` (a number with its spread and source), `catalogue` and `machine` (what
there is to buy), `model_size` (what a model needs), `placement` (what lies where), `efficiency` and
`hit_rate` (what engines reach), `step` and `prefill` (seconds), `money`, `planner` (all of it for
one model on one machine), `compare`, `buy`, `published` (predicted against published).

Everything that is not arithmetic is data, in `data/`, with a source and a date for each figure.
"""
