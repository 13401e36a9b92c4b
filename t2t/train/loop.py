"""The training loop."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import Signals

from t2t import garbage
from t2t.checkpoint import Checkpoints
from t2t.data.prefetch import DeviceBatches
from t2t.sharding import share_of_rows
from t2t.train.background_compiler import BackgroundCompiler
from t2t.train.callbacks import Callback, Callbacks
from t2t.train.evaluation import Evaluator, Interrupted
from t2t.train.experiment import Experiment
from t2t.train.guard import BadStep, Judge
from t2t.train.ledger import Ledger
from t2t.train.meter import Meter
from t2t.train.profile import Tracer
from t2t.train.program import Program
from t2t.train.records import Observer, Records
from t2t.train.run import CHECKPOINTS, RunRecord
from t2t.train.start import initial_state
from t2t.train.state import TrainState
from t2t.train.stop import StopOnSignal
from t2t.train.teacher import teacher_params
from t2t.train.watchdog import Watchdog


@dataclass(frozen=True)
class Outcome:
    """How training ended.

    step:    the last step made.
    stopped: whether training stopped early, before its last step or the final evaluation.
    asked:   whether a stop was requested, even if only after the last step.
    signal:  the signal that requested it, or None.
    """

    step: int
    stopped: bool
    asked: bool = False
    signal: Signals | None = field(default=None, compare=False)


def train(
    directory: Path,
    record: RunRecord,
    observer: Observer,
    *,
    began: float | None = None,
    imported: float = 0.0,
    compiler: BackgroundCompiler | None = None,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Train the run in `directory` to its last step, from its newest undamaged checkpoint or from the start.

    Call this on all processes of a run.

    began:     when the process started (time.time()), for the ledger.
    imported:  seconds that imports took, for the ledger.
    compiler:  a compiler that already runs for this experiment.
    callbacks: the user's callbacks.

    Raises UserError if the configuration does not fit the data, the checkpoint or the machine, and Diverged as `Guard` describes.
    """
    experiment = record.experiment
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopOnSignal())
        watchdog = stack.enter_context(Watchdog(experiment.guard.step_seconds))
        times = Ledger(began, imported)
        records = stack.enter_context(Records(directory, observer, times))
        checkpoints = stack.enter_context(Checkpoints(directory / CHECKPOINTS, experiment.checkpoint))
        newest = checkpoints.latest()
        compiler = compiler or BackgroundCompiler(experiment, newest=newest)
        with times.time("compile"):
            program = compiler.program()
        checkpoints.keep_apart(program.frozen)
        # Opening the data builds TensorFlow graphs, which takes seconds. The training step compiles in the meantime.
        opening = stack.enter_context(ThreadPoolExecutor(1)).submit(_open_data, program, compiler, newest is None)
        starter = _Starter(record, directory, compiler, checkpoints, records, times)
        start, state = starter.newest()
        with times.time("open"):
            data = opening.result()
        stack.callback(data.close)
        tracer = stack.enter_context(Tracer(directory, experiment.profile, experiment.steps, compiler.text))
        if untraced := tracer.missed(start):
            records.note(untraced)
        if start:
            with times.time("restore"):
                data.restore(checkpoints.restore_position(start))
        evaluator = Evaluator(program.model, experiment.evaluation, experiment.resolved_data(), experiment.objective)
        with times.time("eval"):
            evaluator.check(experiment.checkpoint)
        if planned := _other_plan(experiment):
            records.note(planned)
        judge = Judge(experiment.guard, program.specs)
        meter = Meter(data, judge)
        hooks = Callbacks(callbacks, directory, experiment.steps, stop.ask)
        trainable, parameters = program.counts()
        if trainable < parameters:
            records.note(f"training {trainable:,} of {parameters:,} parameters; the others are frozen")
        records.begin(experiment.steps, start, {"parameters": parameters, "trainable_parameters": trainable})
        times.training()
        step, saved = start, start
        evaluated: dict[str, float] = {}

        def save() -> None:
            watchdog.tick(f"saving step {step}")
            with meter.paused(state), times.time("save"):
                judge.check_parameters(step, state.params)
                checkpoints.save(step, state.stored, data.position(), evaluated)
                hooks.checkpoint(step, directory / CHECKPOINTS, checkpoints)

        def evaluate() -> dict[str, float]:
            watchdog.tick(f"the evaluation after step {step}")
            with meter.paused(state), times.time("eval"):
                results = evaluator.evaluate(state.evaluated, stop.now, program.teacher_of(state))
                values = records.evaluated(step, results)
                hooks.evaluation(step, results, values)
                return values

        update, size, interrupted = None, 0, False
        try:
            missed = start and experiment.evaluation.due(start, last=start >= experiment.steps)
            if missed and not checkpoints.metrics(start):  # it failed, or the run ended during it
                checkpoints.add_metrics(start, evaluate())
            while step < experiment.steps and not stop.now():
                watchdog.tick(f"step {step + 1}")
                if update is None or data.upcoming_rows != size:
                    size = data.upcoming_rows
                    with meter.paused(state) if update else contextlib.nullcontext(), times.time("compile"):
                        update = compiler.step(waiting=records.message, size=size)
                    stop.holding = True
                if tracer.begins(step + 1):
                    with meter.paused(state), times.time("profile"):
                        tracer.begin(step + 1)
                with tracer.step(step + 1):
                    state, metrics = update(state, next(data))
                step += 1
                evaluated, logged = {}, None
                meter.add(step, metrics)
                if tracer.ends(step):
                    with meter.paused(state), times.time("profile"):
                        records.message(f"profile written to {tracer.end()}")
                last, due = step == experiment.steps, checkpoints.due(step)
                if last or due or step % experiment.log_every == 0:
                    reading = meter.read()
                    logged = reading.values
                    records.log(step, logged, data.wait_seconds)
                    _report_bad(reading.bad, state, judge, records)
                    if judge.action(reading.bad, reading.row) == "rewind":
                        step, state = starter.rewind(before=reading.bad[0].step, waited=data.wait_seconds)
                        saved = step
                        continue
                hooks.step(step, logged)
                if last or due:  # before the evaluation: if that fails, no training is lost
                    save()
                    saved = step
                if experiment.evaluation.due(step, last=last):
                    evaluated = evaluate()
                    if saved == step:
                        with meter.paused(state), times.time("save"):
                            checkpoints.add_metrics(step, evaluated)
                garbage.resume()  # startup is over
        except Interrupted:
            interrupted = True
        if saved < step:  # asked to stop
            if meter.unread:
                reading = meter.read()
                records.log(step, reading.values, data.wait_seconds)
                _report_bad(reading.bad, state, judge, records)
                judge.action(reading.bad, reading.row)  # may end the run; saved checkpoints are good in any case
            save()
        with times.time("save"):
            checkpoints.wait()
        if step > start:
            records.account(step, data.wait_seconds)
        _report_trimmed(data, records)
        stopped = step < experiment.steps or interrupted
        hooks.end(step, stopped=stopped)
        return Outcome(step=step, stopped=stopped, asked=stop.asked, signal=stop.signal)


@dataclass(frozen=True)
class _Starter:
    """Finds the state that a run starts or continues from."""

    record: RunRecord
    directory: Path
    compiler: BackgroundCompiler
    checkpoints: Checkpoints
    records: Records
    times: Ledger

    def newest(self) -> tuple[int, TrainState]:
        """Return the step and state of the newest undamaged checkpoint, or 0 and a new state. Report damaged checkpoints and move them away."""
        with self.times.time("restore"):
            step = self.checkpoints.newest_good(self.records.message)
            for path in self.checkpoints.set_aside(after=step):
                self.records.message(f"moved to {path}")
        if step:
            self.records.note(f"resuming from step {step} of {self.directory}")
        return self._at(step, resumed=bool(step))

    def rewind(self, before: int, waited: float) -> tuple[int, TrainState]:
        """Return the step and state of the newest checkpoint. The data continues where it is.

        before: the bad step, which is after all checkpoints. waited: total seconds that this process has waited for data.
        """
        with self.times.time("restore"):
            self.checkpoints.wait()
            step = self.checkpoints.latest()
        self.records.message(
            f"rewinding to step {step or 0} because of step {before}; the data read since then is skipped"
        )
        self.records.rewind(step or 0, waited)
        return self._at(step)

    def _at(self, step: int | None, *, resumed: bool = True) -> tuple[int, TrainState]:
        if not step:
            return 0, self._with_teacher(self._first(), resumed=resumed)
        with self.times.time("restore"):
            state = self.checkpoints.restore(step, self.compiler.program().abstract_state().stored)
            return step, self._with_teacher(state, resumed=True)

    def _first(self) -> TrainState:
        if self.record.experiment.start_from.run is None:
            with self.times.time("compile"):
                return self.compiler.state()
        program, note = self.compiler.program(), self.records.note
        return initial_state(self.record, self.directory, program, note, self.checkpoints)

    def _with_teacher(self, state: TrainState, *, resumed: bool) -> TrainState:
        program = self.compiler.program()
        return replace(state, teacher=teacher_params(program, self.directory, resumed=resumed))


def _open_data(program: Program, compiler: BackgroundCompiler, begin: bool) -> DeviceBatches:
    from t2t.data.answers import check_model  # loads TensorFlow
    from t2t.data.pipeline import batches
    from t2t.data.registry import check, converter_of, provider_of

    data = program.experiment.resolved_data()
    check_model(data, program.model.config)
    sharding = program.batch_sharding()
    share = share_of_rows(sharding, data.batch_size)
    kind = program.model.config.kind
    check(data, kind, process_index=share.index, process_count=share.count)
    convert = program.experiment.objective.converter
    rows = converter_of(data, kind, provider_of(data), convert)
    compiler.rows(rows)
    host = batches(data, kind, process_index=share.index, process_count=share.count, begin=begin, convert=convert)
    return DeviceBatches(host, sharding, share=share, extra=program.extra_shardings(rows))


def _other_plan(experiment: Experiment) -> str | None:
    """Return a note if the learning rate schedule has another number of steps than the run, else None."""
    planned = getattr(experiment.optimizer.schedule, "steps", experiment.steps)
    if planned == experiment.steps:
        return None
    return f"note: the learning rate schedule has {planned:,} steps (--optimizer.schedule.steps), the run has {experiment.steps:,} (--steps)"


def _report_bad(bad: list[BadStep], state: TrainState, judge: Judge, records: Records) -> None:
    if not bad:
        return
    culprit = None
    if bad[0].kind == "nonfinite":
        culprit = judge.bad_parameter(state.params)  # on all processes
    for found in bad[:5]:
        what = found.what if culprit is None else f"parameter {culprit} is not finite"
        records.message(f"step {found.step}: {what}; {found.left_out} skipped")
    if len(bad) > 5:
        records.message(f"and {len(bad) - 5} more, up to step {bad[-1].step}")


def _report_trimmed(data: DeviceBatches, records: Records) -> None:
    counts = data.host.counts
    if counts.trimmed or counts.empty:
        records.message(
            f"of {counts.examples:,} examples read, {counts.trimmed:,} were longer than the configured lengths and were truncated, "
            f"{counts.empty:,} had nothing to predict and were skipped"
        )
