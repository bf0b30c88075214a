"""What a process does with its memory and devices."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, numpy
from avpipe.training.devices import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        parts = [numpy.ones(2_000_000) for _ in range(8)]  # 16 MB each
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if keep:
    keep_freed_memory()
pages()
print(pages())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc's memory")
def test_freed_memory_is_kept_for_the_next_step():
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS.replace("if keep", f"if {keep}")]))
        for keep in (True, False)
    )
    # Pages; a round touches 31,000 of 4 kB, fewer where the system has larger ones.
    assert kept < 100 < given_back
