"""`python -m avpipe`, which is how the workflow's jobs call it."""

from avpipe.cli import app

app()
