"""The shipped models agree with their records, counted and judged without the package."""

import count_shipped
import pytest

from prunekit import experiments, models

SHIPPED = count_shipped.shipped()
each = pytest.mark.parametrize(("path", "said"), SHIPPED, ids=lambda x: getattr(x, "stem", ""))


def test_the_dense_nets_and_at_most_four_pruned_ones_are_shipped():
    dense = {f"{name}-{seed}" for name in ("lenet_300_100", "lenet_5") for seed in range(3)}
    names = {path.stem for path, _ in SHIPPED}
    assert names >= dense
    assert len(names - dense) <= 4


@each
def test_no_more_weights_than_said_are_not_zero(path, said):
    found = count_shipped.counted(path)
    assert found["parameters"] == said["parameters"]
    # A weight that came back and never learned may be zero.
    assert 0.98 * said["kept"] <= found["nonzero"] <= said["kept"]


@each
def test_the_record_of_the_experiment_says_the_same(path, said):
    (cell,) = (
        c
        for c in experiments.recorded(said["experiment"])
        if (c["arm"], c["seed"]) == (said["arm"], said["seed"])
    )
    for name in ("hash", "kept", "parameters", "after"):
        assert cell[name] == said[name]


@each
def test_the_test_errors_are_those_of_the_record(path, said, data_root):
    found = count_shipped.counted(path, count_shipped.test_images(data_root))
    assert abs(found["errors"] - said["after"]["test"]) <= 2  # the last bits of another order


@each
def test_it_is_found_by_name_seed_and_variant(path, said):
    name, seed, *variant = path.stem.split("-")
    model = models.pretrained(name, int(seed), *variant)
    assert models.provenance(name, int(seed), *variant) == said
    assert sum(int((p != 0).sum()) for p in model.parameters()) <= said["kept"]
