"""A search of settings by Ray Tune: draws them at random from a seed, and keeps the best that validation saw.

The same search draws the same trials in the same order, and one that has finished is not trained again: so a
search that was killed goes on where it was, and one for more trials begins with those that it has.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from contract.ray import ALONE, LOOPBACK, QUIET, silent
from training.config import SettingError
from training.record import in_a_line
from training.tuning.space import ValueRange
from training.tuning.trial import TrialFailed, TrialRunner
from training.tuning.trial_log import VALUE, TrialLog

ENVIRONMENT = (
    QUIET
    | ALONE
    | {
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_RESULT_BUFFER_LENGTH": "0",
    }
)
FAILED = "failed"
"""What a trial that failed reports beside its value."""


def search(
    runner: TrialRunner, now: dict[str, Any], log: TrialLog, *, seed: int, hours: float | None, at_once: int
) -> None:
    """Runs the trials, the settings as they are `now` the first of them, at most for so many hours.

    Raises:
        SettingError: Ray does not start.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    class Listener(tune.Callback):
        """Hears of trials as they end."""

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            del iteration, trials
            result = trial.last_result or {}
            if FAILED in result:
                log.add_failed(result[FAILED])
            elif VALUE in result:  # else it was stopped as the time is over
                log.add(trial.config, result[VALUE])

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            del iteration, trials
            log.add_failed(in_a_line(trial.get_pickled_error()))

    def train(drawn: dict[str, Any]) -> None:
        try:
            tune.report({VALUE: runner.run(drawn)})
        except TrialFailed as error:  # Ray would print where in the code that was
            tune.report({VALUE: math.nan, FAILED: str(error)})

    folder = tempfile.mkdtemp(prefix="tune-ray-")
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        start_ray(folder, at_once)
        tune.Tuner(
            tune.with_resources(train, {"cpu": 1}),
            param_space={name: domain(values, tune) for name, values in runner.space.settings.items()},
            tune_config=tune.TuneConfig(
                metric=VALUE,
                mode="max" if runner.space.is_more_better else "min",
                num_samples=log.trials,
                reuse_actors=True,
                search_alg=BasicVariantGenerator(
                    points_to_evaluate=[now], random_state=seed, max_concurrent=at_once
                ),
                time_budget_s=hours * 3600 if hours else None,
            ),
            run_config=tune.RunConfig(
                name="search", storage_path=str(Path(folder) / "results"), verbose=0, callbacks=[Listener()]
            ),
        ).fit()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def start_ray(folder: str, at_once: int) -> None:
    """Starts a Ray of the search's own, on loopback.

    Raises:
        SettingError: it does not start.
    """
    import ray

    try:
        with silent():
            ray.init(
                address="local",
                num_cpus=at_once,
                include_dashboard=False,
                _node_ip_address=LOOPBACK,
                _temp_dir=folder,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except Exception as error:  # Ray raises that itself
        remedy = "it needs a short TMPDIR with room, and a machine that is not too busy; run it again"
        raise SettingError(f"Ray did not start: {in_a_line(error)}; {remedy}") from None


def domain(values: list[Any] | ValueRange, tune: Any) -> Any:
    """Gives what Ray draws a setting from."""
    if not isinstance(values, ValueRange):
        return tune.choice(values)
    is_log = values.scale == "log"
    if values.whole:
        return (tune.lograndint if is_log else tune.randint)(round(values.low), round(values.high) + 1)
    return (tune.loguniform if is_log else tune.uniform)(values.low, values.high)
