"""`python -m avpipe`, which is how the workflow's jobs call it."""

import atexit
import gc

# Looking for garbage among the modules, while they are loaded and once more before the process ends, is a fifth of a
# short job. So it is done rarely, and not at the end, when all memory goes back anyway.
gc.set_threshold(50_000, 20, 100)
atexit.register(gc.freeze)

from avpipe.cli import app  # noqa: E402

app()
