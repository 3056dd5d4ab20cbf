"""Trains, samples and measures the experiment of a config.

python main.py --config=configs/ncsn_gmm.py
python main.py --config=configs/ncsn_gmm.py --config.optimizer.learning_rate=1e-3
python main.py --config=configs/ncsn_gmm.py --mode=eval --config.sampler.name=heun
python main.py --config=configs/ncsn_gmm.py --config.ensemble.seeds=16   # in one program
python main.py --config=configs/ncsn_gmm.py --distributed    # the same on every host of a cluster
"""

import sys

from scorelab.__main__ import main

if __name__ == "__main__":
  sys.exit(main())
