"""Small networks in the tests: a second thread costs more than it brings, above all on busy cores."""

import torch

torch.set_num_threads(1)
