"""A real worker with a fake model, so that a hundred jobs take seconds."""

import uvloop

from benchmarker.worker import __main__ as worker
from benchmarker.worker import cache, session
from benchmarker.worker.sandbox import Sandbox

if __name__ == "__main__":
    cache.FETCH = session.MEASURE = worker.DESCRIBE = "quick_model"
    # The quick model kills its worker, which a sandbox would prevent.
    worker.detect = lambda: Sandbox((), (), ())
    uvloop.run(worker.main())
