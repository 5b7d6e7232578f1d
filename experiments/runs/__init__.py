"""Runs: their directories, metrics, results, and the loop that stops and goes on."""

from runs.directory import Busy as Busy
from runs.directory import check_same as check_same
from runs.directory import open_directory as open_directory
from runs.inputs import check_seeds as check_seeds
from runs.inputs import number_of_shards as number_of_shards
from runs.loop import Stopped as Stopped
from runs.loop import go_on as go_on
from runs.loop import progress as progress
from runs.loop import run_until as run_until
from runs.loop import stop_signals as stop_signals
from runs.metrics_file import Diverged as Diverged
from runs.metrics_file import Failed as Failed
from runs.metrics_file import MetricsFile as MetricsFile
from runs.results import read_json as read_json
from runs.results import spread as spread
from runs.results import write_json as write_json
