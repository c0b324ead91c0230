"""One TorchScript module, as every foreign teacher serves it: u8 images in, logits out.

TEACHER_MODULE names the file; TEACHER_TORCH the folders from which `import torch` works, which come after the server's
own packages so that they replace none.
"""

import os
import sys

sys.path.extend(os.environ["TEACHER_TORCH"].split(os.pathsep))

import numpy as np  # noqa: E402
import torch  # noqa: E402

NAME = "small"
SHAPE = [1, 8, 8]
CLASSES = 10

torch.set_num_threads(1)
_module = torch.jit.load(os.environ["TEACHER_MODULE"]).eval()


def logits(images):
    """`[n, 1, 8, 8]` of uint8 -> `[n, 10]` of float32."""
    values = torch.from_numpy(np.array(images, dtype=np.uint8)).to(torch.float32) / 255
    with torch.inference_mode():
        return _module(values).numpy().astype(np.float32)
