"""The main job, as small as possible."""

from pathlib import Path


def small_run_in(folder: Path) -> dict:
    """Write the images of a target domain, digits turned by about 0.8 rad, and return a run's configuration.

    Args:
        folder: for the images and for the run's output.
    """
    return small_run_of(small_domain_in(folder / "domain"), folder / "run")


def small_domain_in(folder: Path) -> Path:
    """Write the images of the target domain into the folder, and return it."""
    from rsf_dist.demo.digits_domain import make_domain

    make_domain(folder, num_images=120, num_test=200, num_oracle=256)
    return folder


def small_run_of(domain: Path, output: Path) -> dict:
    """Return the configuration of a run whose target domain lies in one folder and whose output goes to another."""
    return {
        "output": str(output),
        "source": {"kind": "digits", "limit": 1000},
        "target": {"kind": "image_folder", "root": str(domain / "unlabelled"), "channels": 1},
        "proposal": {"parameters": {"rotation": {"uniform": [-1.5, 1.5]}, "brightness": {"uniform": [0.2, 1.0]}}},
        "ratio": {"network": {"width": 4}, "optimizer": {"steps": 30, "batch_size": 64}, "num_proposals": 1000},
        "envelope": {"kind": "budget", "acceptance": 0.1, "num_pilot": 2000},
        "sampling": {"num_accepted": 256, "chunk_size": 512, "pool": {"max_actors": 1}},
        "model": {"width": 4},
        "pretrain": {"steps": 30},
        "training": {"steps": 20, "batch_size": 32, "num_workers": 1, "cpus_per_worker": 0.5},  # a start takes long
        "evaluation": {
            "test": {"kind": "image_folder", "root": str(domain / "test"), "channels": 1},
            "arms": ["pretrained", "one_shot"],
        },
    }
