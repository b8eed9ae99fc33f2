"""Whether what trains the two towers goes with the other settings; looked at before anything is prepared."""

from __future__ import annotations

from pathlib import Path

from training.config import SettingError, TrainingSettings
from training.retrieval.task import check_batch
from training.shards.layout import HEADER_FILE, ShardError, ShardsHeader


def check_trainer(settings: TrainingSettings) -> None:
    """Compares the trainer with the model, its processes, the batch and the shards.

    Raises:
        SettingError: they contradict each other.
        WorkersError: the batch does not divide among the processes.
    """
    if settings.trainer == "merlin":
        if settings.workers > 1:
            raise SettingError(
                f"SHORTLIST_WORKERS={settings.workers}: merlin trains in one process; set SHORTLIST_TRAINER="
                "torchrec"
            )
        if settings.torchrec.shards:
            raise SettingError(
                f"SHORTLIST_TORCHREC__SHARDS={settings.torchrec.shards}: merlin reads no shards; set "
                "SHORTLIST_TRAINER=torchrec, or leave them out"
            )
        return
    if settings.retrieval != "two_tower":
        raise SettingError(
            f"SHORTLIST_TRAINER={settings.trainer}: trains two_tower alone, not {settings.retrieval}; leave "
            "SHORTLIST_RETRIEVAL as it is"
        )
    check_batch(settings.two_tower.batch_size, settings.workers)
    if settings.torchrec.shards:
        _check_shards(settings.torchrec.shards, settings.workers)


def _check_shards(address: str, workers: int) -> None:
    if "://" in address:
        return  # the role torch alone has what reaches it
    file = Path(address) / HEADER_FILE
    if not file.is_file():
        raise SettingError(
            f"SHORTLIST_TORCHREC__SHARDS={address}: holds no shards; write them: `make shards`"
        )
    try:
        ShardsHeader.model_validate_json(file.read_text()).check_ranks(workers)
    except ShardError as error:
        raise SettingError(f"SHORTLIST_TORCHREC__SHARDS={address}: {error}") from None
    except ValueError:
        raise SettingError(
            f"{file}: is damaged, or of another version; write the shards anew: `make shards`"
        ) from None
