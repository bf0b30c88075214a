"""What a study asks for: its configuration, experiments and plan.

No module here imports torch or pandas, because the Snakefile imports them at every start. This file imports nothing, so
that a job depends only on the modules that it uses: a new key in another module makes none of its results stale.
"""
