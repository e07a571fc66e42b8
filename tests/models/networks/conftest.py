"""Small networks: a second thread would cost more than it brings, above all on busy cores."""

import torch

torch.set_num_threads(1)
