"""What only the TVM backend promises."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from service import artifact as contract
from service import backends
from service.backends.tvm import TvmBackend
from tests.support.artifacts import PUBLISHED


def test_threads_share_the_prepared_weights():
    finder = contract.find(PUBLISHED, "finder-fast")
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        first, second = (pool.submit(backends.load, finder).result() for pool in (one, other))
        assert isinstance(first, TvmBackend)
        assert isinstance(second, TvmBackend)
        for shape, function in first._network._functions.items():
            shared = second._network._functions[shape]._prepared
            assert all(mine is its for mine, its in zip(function._prepared, shared, strict=True))
            image = np.random.default_rng(1).integers(0, 256, (1, *shape), np.uint8)
            mine, its = (pool.submit(made.infer, image).result() for pool, made in ((one, first), (other, second)))
            np.testing.assert_array_equal(mine, its)
