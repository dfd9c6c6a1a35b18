"""The real worker over a model that costs nothing, so that a hundred jobs are soon run."""

import uvloop

from benchmarker.worker import __main__ as worker
from benchmarker.worker import session

if __name__ == "__main__":
    session.FETCH = session.MEASURE = worker.MEASURE_CHILD = "quick_model"
    uvloop.run(worker.main())
