"""Print scores of pytorch-fid and torch-fidelity as JSON: `peers_worker.py PEERS WEIGHTS ONE.npy OTHER.npy`.

A separate program, because they need torchvision. With the CPU build of torch, torchvision loads only after
two of its operators are declared, and other libraries must not find it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch

DIMENSIONS = (8, 32, 256)
"""Numbers of features for Fréchet distances; with all 2,048, SciPy would take minutes."""


def main(peers: str, weights: str, one: str, other: str) -> None:
    sys.path.insert(0, peers)
    for name in ("nms", "qnms"):
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define(f"torchvision::{name}", schema)
    import pytorch_fid.inception  # noqa: PLC0415
    import safetensors.torch  # noqa: PLC0415
    from pytorch_fid.fid_score import calculate_frechet_distance  # noqa: PLC0415
    from torch_fidelity.metric_kid import kernel_mmd, kid_features_to_metric  # noqa: PLC0415
    from torch_fidelity.metric_prc import prc_features_to_metric  # noqa: PLC0415

    def random_state(*_: Any, **__: Any) -> dict[str, torch.Tensor]:
        state = dict(safetensors.torch.load_file(weights))
        for name in [name for name in state if name.endswith("running_mean")]:
            state[name.replace("running_mean", "num_batches_tracked")] = torch.tensor(0)
        return {**state, "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}

    pytorch_fid.inception.load_state_dict_from_url = random_state
    network = pytorch_fid.inception.InceptionV3([3]).eval()

    def features_of(path: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        images = torch.from_numpy(np.load(path)).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            found = [network(batch)[0].flatten(1).numpy() for batch in torch.split(images, 50)]
        return np.concatenate(found)

    features = [features_of(path) for path in (one, other)]
    for path, array in zip((one, other), features, strict=True):
        np.save(path.replace(".npy", "-features.npy"), array)
    exact = [array.astype(np.float64) for array in features]
    frechet = {}
    for dimension in DIMENSIONS:
        few = [array[:, :dimension] for array in exact]
        one_set, other_set = ((array.mean(0), np.cov(array, rowvar=False)) for array in few)
        frechet[dimension] = float(calculate_frechet_distance(*one_set, *other_set))
    size = min(map(len, exact))
    tensors = [torch.from_numpy(array) for array in exact]
    subsets = {"kid_subsets": 10, "kid_subset_size": 40, "rng_seed": 2020, "verbose": False}
    kid = kid_features_to_metric(*tensors, **subsets)
    prc = prc_features_to_metric(
        *tensors,
        prc_neighborhood=3,
        prc_batch_size=10_000,
        save_cpu_ram=False,
        verbose=False,
    )
    print(
        json.dumps(
            {
                "frechet": frechet,
                "kernel": float(kernel_mmd(exact[0][:size], exact[1][:size])),
                "kernel_mean": kid["kernel_inception_distance_mean"],
                "kernel_std": kid["kernel_inception_distance_std"],
                "precision": prc["precision"],
                "recall": prc["recall"],
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
