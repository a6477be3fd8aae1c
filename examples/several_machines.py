"""Train on several machines with Ultralytics' own engine.

On each of two machines with four GPUs::

    torchrun --nnodes 2 --nproc_per_node 4 --rdzv_backend c10d --rdzv_id ela --rdzv_endpoint FIRST_MACHINE:29500 \
        several_machines.py model=yolov8n-ela.yaml data=my.yaml device=0,1,2,3 batch=128 epochs=100

Ultralytics counts the devices of one machine as all there are; this trainer takes their number from torchrun.
"""

import os
import sys

from ultralytics.cfg import parse_key_value_pair
from ultralytics.models.yolo.detect import DetectionTrainer


class SeveralMachinesTrainer(DetectionTrainer):
    """A detection trainer whose processes are those that torchrun started, on whatever machine."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.world_size = int(os.environ["WORLD_SIZE"])


if __name__ == "__main__":
    SeveralMachinesTrainer(overrides=dict(map(parse_key_value_pair, sys.argv[1:]))).train()
