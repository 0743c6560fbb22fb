"""The command line with a network that repeats pixels and takes its time, for tests that kill it.

The last argument is how many cores the machine pretends to have.
"""

import importlib.util
import pathlib
import sys
import time

from stvsr_jax import stages
from stvsr_jax.inference import predictor
from stvsr_jax.inference.__main__ import main


def load_fakes():
    path = pathlib.Path(__file__).with_name("conftest.py")
    spec = importlib.util.spec_from_file_location("fakes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FAKES


def from_pretrained(source, *, weights, dtype, **kwargs):
    directory = pathlib.Path(source)
    return predictor.Predictor(directory.name, load_fakes()[directory.name](dtype=dtype), {}, **kwargs)


def slowly(render):
    def predict(*args, **kwargs):
        time.sleep(0.05)
        return render(*args, **kwargs)

    return predict


if __name__ == "__main__":
    cores = int(sys.argv.pop())
    stages.count_cores = lambda: cores  # decides how many segments are encoded at a time
    predictor.Predictor.from_pretrained = from_pretrained
    predictor.Predictor.predict_windows = slowly(predictor.Predictor.predict_windows)
    sys.exit(main())
