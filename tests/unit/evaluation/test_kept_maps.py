"""Maps that an evaluator keeps to be looked at."""

import pickle

import numpy as np
import torch
from torch.nn.functional import one_hot

from detcore.evaluation import Evaluator, GroundTruth
from detcore.evaluation.kept_maps import RegionMap
from detcore.evaluation.panoptic import Segments
from detcore.structures.batch import Batch, Detections

CLASSES = ("sky", "road", "tree")


def test_the_chosen_images_maps_come_back_through_any_rank() -> None:
    rng = np.random.default_rng(0)
    truth = [rng.integers(0, 3, (8, 12)).astype(np.uint8) for _ in range(4)]
    predicted = [rng.integers(0, 3, (8, 12)).astype(np.uint8) for _ in range(4)]
    truth[2][0] = 255
    coco = {
        "images": [{"id": 50 + i, "height": 8, "width": 12} for i in range(4)],
        "categories": [],
        "annotations": [],
    }
    known = GroundTruth(coco=coco, semantic=lambda sample: truth[sample], semantic_classes=CLASSES)
    ranks = [Evaluator(known, predicts=("semantic",), keep_maps_of=keep) for keep in ((0, 2), (0, 2), ())]
    for rank, samples in ((0, [0, 1]), (1, [3, 2]), (2, [0, 1, 2, 3])):
        count = len(samples)
        batch = Batch(
            images=torch.zeros(count, 3, 8, 12),
            image_sizes=torch.tensor([[8, 12]] * count),
            sample_ids=torch.tensor(samples),
            real=torch.ones(count, dtype=torch.bool),
            original_sizes=torch.tensor([[8, 12]] * count),
            geometry=torch.eye(3).repeat(count, 1, 1),
            rng_key=torch.zeros(2, dtype=torch.int64),
        )
        logits = one_hot(torch.from_numpy(np.stack([predicted[i] for i in samples])).long(), 3).permute(0, 3, 1, 2)
        boxes = torch.zeros(count, 0, 4)
        empty = boxes[..., 0]
        ranks[rank].add(batch, Detections(boxes, empty, empty.long(), empty.bool(), semantic=logits.float()))
    ranks[0].merge(pickle.loads(pickle.dumps([rank.state() for rank in ranks[:2]])))
    evaluation, without = ranks[0].compute(), ranks[2].compute()
    assert evaluation.metrics == without.metrics and without.maps == {}
    assert sorted(evaluation.maps) == [50, 52]
    for image_id, (true, own) in evaluation.maps.items():
        sample = image_id - 50
        classes = np.array([255, 0, 1, 2])  # by region; 0 is none
        assert np.array_equal(classes[true.ids], truth[sample])
        assert np.array_equal(classes[own.ids], predicted[sample])
        assert true.classes == own.classes == {1: 0, 2: 1, 3: 2}


def test_of_a_panoptic_map_stuff_is_kept() -> None:
    segments = Segments(
        ids=np.array([[7, 7, 9], [0, 4, 5]], np.int32), categories={7: (False, 2), 9: (True, 0), 4: (False, 1)}
    )
    regions = RegionMap.of_segments(segments)
    assert regions.ids.tolist() == [[7, 7, 0], [0, 4, 0]] and regions.classes == {7: 2, 4: 1}


def test_a_large_map_is_thinned() -> None:
    regions = RegionMap.of(np.full((2500, 40), 3), {3: 1, 8: 0})
    assert regions.ids.shape == (834, 14) and regions.classes == {3: 1}
