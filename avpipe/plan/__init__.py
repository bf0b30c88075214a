"""The configuration: described once, a module a part; the JSON schema and `docs/config.md` are generated from it.

Light on purpose (no torch, no pandas): the Snakefile validates with it at every start. Nothing is imported here, so that
a job's code is the part it reads and a new key of another part makes no result stale.
"""
