"""The training loop: data in; steps, metrics, evaluations and checkpoints out."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from block_recurrent.config.run_config import RunConfig
from block_recurrent.console.progress import Progress
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.lanes import Batch, LanePosition, Lanes
from block_recurrent.data.prefetch import prefetch
from block_recurrent.data.vocabularies import Vocabulary
from block_recurrent.errors import UserError, cannot_write
from block_recurrent.evaluation.evaluator import Evaluator, evaluation_shape
from block_recurrent.evaluation.memory_worth import MemoryProbe
from block_recurrent.evaluation.score import compressed_bits_per_byte
from block_recurrent.files.paths import AnyPath
from block_recurrent.model.config import ModelConfig
from block_recurrent.model.transformer import abstract_model
from block_recurrent.parallel.processes import is_main_process, print_from_process, print_once
from block_recurrent.parallel.sharding import Layout, make_mesh, split_heads
from block_recurrent.reporting.metrics_log import MetricsLog
from block_recurrent.reporting.metrics_server import MetricsServer
from block_recurrent.reporting.wandb_log import WandbLog, check_wandb
from block_recurrent.training.checkpoints import Checkpoints, with_shardings
from block_recurrent.training.initial_model import initial_params
from block_recurrent.training.layout_table import layout_table, memory_line
from block_recurrent.training.loss_spikes import LossSpikes
from block_recurrent.training.nonfinite import NonfiniteSteps, RollBack, Step
from block_recurrent.training.optimizers import make_optimizer
from block_recurrent.training.preemption import StopSignal
from block_recurrent.training.step_memory import compile_to_fit, compiler_options, step_memory_line
from block_recurrent.training.text_samples import text_sampler
from block_recurrent.training.train_step import (
    StepMetrics,
    TrainState,
    init_function,
    make_train_step,
    random_kernels,
    state_shardings,
)
from block_recurrent.training.watching import Watch
from block_recurrent.training.workdir import record_config, workdir_lock


class Trainer:
    """A run: made from its configuration, started or continued by `run`.

    Making it reads the corpus and checks that everything fits, and writes nothing.

    Raises:
      UserError: corpus, model, batch and devices do not fit each other.
    """

    def __init__(self, config: RunConfig, workdir: AnyPath):
        train, model = config.train, split_heads(config.mesh, config.model)
        check_wandb(train.wandb_project)
        self.documents = load_documents(config.data)
        vocabulary = self.documents["train"].vocabulary
        check_vocabulary(vocabulary, model)
        self.config = dataclasses.replace(config, data=config.data.resolved(vocabulary.name))
        self.workdir = workdir
        shape = (train.batch_size, train.segment_length)
        window = model.window_length
        self.lanes = Lanes(self.documents["train"], *shape, window, seed=train.seed)
        self.mesh = make_mesh(config.mesh, model, train.batch_size)
        self.layout = Layout(self.mesh, config.mesh.rules)
        self.rows = self.layout.rows_here(train.batch_size)
        self.graphdef, self.params = abstract_model(model)
        held_out = self.documents["held_out"]
        ways = self.mesh.size // config.mesh.tensor
        shape = evaluation_shape(held_out, model.attention, *shape, ways)
        self.evaluator = Evaluator(self.graphdef, held_out, window, *shape, self.layout)
        self.probe = None
        if model.has_recurrent_state:
            self.probe = MemoryProbe(self.evaluator, train.segment_length)
        self.writer = text_sampler(self.graphdef, self.params, train, held_out, self.layout)
        self.optimizer, self.learning_rate = make_optimizer(config.optimizer)
        self.init = init_function(model, self.optimizer, train.batch_size, train.seed)
        abstract = jax.eval_shape(self.init)
        self.shardings = state_shardings(self.layout, abstract)
        self.abstract = with_shardings(abstract, self.shardings)
        self.initial_params = self.read_initial_model()

    def read_initial_model(self) -> dict[str, Any] | None:
        """The parameters of `train.initial_model`, which a run needs until it has a checkpoint."""
        path = self.config.train.initial_model
        if path is None:
            return None
        with Checkpoints(self.workdir, read_only=True) as checkpoints:
            begun = bool(checkpoints.steps)
        return None if begun else initial_params(path, self.config.model)

    def run(self) -> bool:
        """Trains up to the last step; False if a signal stopped it before, all saved."""
        with workdir_lock(self.workdir):
            try:
                return self.run_alone()
            except Exception as error:
                if (why := cannot_write(error)) is None:
                    raise
                raise UserError(
                    f"cannot write to {self.workdir} ({why}): what was saved before is whole; make "
                    "space, and the same command goes on from there"
                ) from error

    def run_alone(self) -> bool:
        """`run`, while no other training has the folder."""
        record_config(self.workdir, self.config)
        print_once(self.summary())
        if is_main_process():
            table = layout_table(self.abstract)
            (self.workdir / "layout.txt").write_text(table + "\n", encoding="utf-8")
            if self.mesh.size > 1:
                print_once(f"\n{table}\n")
        num_steps = self.config.train.num_steps
        self.nonfinite = NonfiniteSteps(self.config.train, self.lanes, self.workdir)
        port = self.config.watch.port if is_main_process() else None
        with (
            MetricsServer(port) if port else contextlib.nullcontext() as self.server,
            Checkpoints(self.workdir) as checkpoints,
            StopSignal() as stop,
        ):
            state, position = self.start(checkpoints)
            if state.step >= num_steps:
                print_once(f"all {num_steps:,} steps of this run are done")
                return True
            project = self.config.train.wandb_project if is_main_process() else None
            with (
                WandbLog(project, self.workdir, dataclasses.asdict(self.config))
                if project
                else contextlib.nullcontext() as self.wandb
            ):
                step = self.compile_step()
                while not stop.reached:
                    try:
                        return self.go_on(step, state, position, checkpoints, stop) == num_steps
                    except RollBack as back:
                        position = back.position
                    checkpoints.go_back(self.config.train.checkpoint_every_steps)
                    state, _ = checkpoints.restore(self.abstract, position)
        return False

    def go_on(
        self,
        step: Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]],
        state: TrainState,
        position: LanePosition,
        checkpoints: Checkpoints,
        stop: StopSignal,
    ) -> int:
        """The loop with all that it needs from this state on; returns how many steps are done."""
        train, first = self.config.train, int(state.step)
        with contextlib.ExitStack() as stack:
            heartbeat, self.note = None, print_from_process
            if is_main_process():
                log = MetricsLog(self.workdir, first or None, self.wandb)
                self.log = stack.enter_context(log)
                self.progress = stack.enter_context(Progress(train.num_steps, first))
                self.spikes = LossSpikes(log.path, train.log_every_steps)
                heartbeat, self.note = self.workdir / "heartbeat.json", self.progress.note
            watch = Watch(heartbeat, self.config.watch, self.note, first)
            self.watch = stack.enter_context(watch)
            reading = prefetch(self.lanes, position, self.rows, self.layout.put)
            batches = stack.enter_context(reading)
            return self.loop(step, state, position, batches, checkpoints, stop)

    def summary(self) -> str:
        """What is about to run, in four lines."""
        train, model = self.config.train, self.config.model
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.params))
        layers = ", ".join(map(str, model.recurrent_indices))
        memory = f"{model.num_states} states in layer {layers}" if layers else "no recurrence"
        data = [
            f"{documents.num_bytes / 1e6:,.2f} MB in {len(documents.lengths):,} documents ({split})"
            for split, documents in self.documents.items()
        ]
        devices = f"{self.mesh.size} {self.mesh.devices.flat[0].device_kind} device(s)"
        return "\n".join(
            [
                f"model  {count / 1e6:,.2f}M parameters, {model.num_layers} layers, window "
                f"{model.window_length}, {memory}",
                f"memory {memory_line(self.abstract)}",
                f"data   {self.config.data.corpus}: {', '.join(data)}",
                f"run    {self.workdir}: {train.num_steps:,} steps of {train.batch_size} × "
                f"{train.segment_length} tokens on {devices}",
            ]
        )

    def start(self, checkpoints: Checkpoints) -> tuple[TrainState, LanePosition]:
        """The newest checkpoint, or the beginning."""
        position = self.lanes.initial_position()
        if checkpoints.latest_step is None:
            state = self.initial_state()
            if self.initial_params is not None:
                params = jax.device_put(self.initial_params, self.shardings.params)
                state, self.initial_params = state._replace(params=params), None
            if self.config.train.on_nonfinite == "roll_back":
                checkpoints.save(state, position)
            return state, position
        print_once(f"continuing from step {checkpoints.latest_step:,}")
        return checkpoints.restore(self.abstract, position)

    def initial_state(self) -> TrainState:
        """The beginning, every part on its devices."""
        with random_kernels():
            return jax.jit(self.init, out_shardings=self.shardings)()

    def loop(
        self,
        step: Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]],
        state: TrainState,
        position: LanePosition,
        batches: Iterator[tuple[Batch, LanePosition]],
        checkpoints: Checkpoints,
        stop: StopSignal,
    ) -> int:
        """Steps until the end or a signal, when all is saved. Returns how many are done."""
        train = self.config.train
        self.clock, self.waited = time.perf_counter(), 0.0
        unreported = None
        for done in range(int(state.step) + 1, train.num_steps + 1):
            asked, before = time.perf_counter(), position
            with self.watch.at("waiting for data"):
                batch, position = next(batches)
            self.waited += time.perf_counter() - asked
            with self.watch.at("waiting for the device"):
                state, measured = step(state, batch)
            self.watch.step(done)
            self.nonfinite.add(Step(done, before, position, measured))
            if unreported:  # one step late, so that the device is at work again meanwhile
                unreported = self.report(*unreported)
            last, stopping = done == train.num_steps, stop.after_step()
            if last or done % train.log_every_steps == 0:
                unreported = (done, measured)
            evaluate = last or done % train.eval_every_steps == 0
            save = last or done % train.checkpoint_every_steps == 0 or stopping
            if unreported and (evaluate or save):
                unreported = self.report(*unreported)
            if evaluate or save:  # no checkpoint holds what is to be gone back behind
                self.look(done)
            paused = time.perf_counter()
            if evaluate:
                with self.watch.at("evaluating"):
                    self.evaluate(done, state)
            if save:
                if is_main_process():
                    self.log.flush()
                with self.watch.at("waiting for the checkpoint"):
                    checkpoints.save(state, position)
                self.nonfinite.saved()
            if evaluate or save:
                self.watch.paused()
            self.clock += time.perf_counter() - paused
            if stopping:
                break
        with self.watch.at("waiting for the checkpoint"):
            checkpoints.wait()
        return done

    def look(self, until: int):
        """Acts on the steps up to number `until` that were not finite."""
        with self.watch.at("waiting for the device"):
            self.nonfinite.look(until, self.note)
        self.watch.measured(until)

    def compile_step(self) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
        """The compiled step, so that no measured step contains compiling; its memory is told."""
        log_every_steps = self.config.train.log_every_steps
        step = make_train_step(self.graphdef, self.optimizer, log_every_steps, self.layout)
        outputs = self.shardings, self.layout.replicated
        device = self.mesh.local_devices[0]
        options = compiler_options(self.config.model.remat, device.platform)
        jitted = jax.jit(step, donate_argnums=0, out_shardings=outputs, compiler_options=options)
        batch, _ = self.lanes.read(self.lanes.initial_position(), self.rows)
        compiled = compile_to_fit(jitted.lower(self.abstract, self.layout.put(batch)))
        print_once(step_memory_line(compiled, device))
        return compiled

    def report(self, step: int, measured: StepMetrics):
        """Writes one line of training metrics, in the first process."""
        self.look(step)
        if not is_main_process():
            return
        nats, tokens, grad_norm, steps, nonfinite = map(float, jax.device_get(measured.sums))
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        waited, self.waited = self.waited, 0.0
        train = self.config.train
        loss = nats / tokens if tokens else math.nan
        bits_per_token = loss / math.log(2)
        over_median, spike = self.spikes.compare(step, loss)
        metrics = {
            "loss": loss,
            "bits_per_token": bits_per_token,
            "bits_per_byte": bits_per_token / self.lanes.documents.bytes_per_token,
            "loss_over_median": over_median,
            "tokens_per_second": tokens / seconds,
            "learning_rate": float(self.learning_rate(step - 1)),
            "gradient_norm": grad_norm / steps if steps else math.nan,
            "nonfinite_steps": nonfinite,
            "waiting_for_data": waited / seconds,
            "padding": 1 - tokens / (max(steps, 1) * train.batch_size * train.segment_length),
        }
        self.write(step, "train", metrics)
        self.progress.update(step, metrics)
        if spike:
            self.note(f"step {step:,}: the loss is {over_median:.2f} × its running median")

    def write(self, step: int, split: str, metrics: Mapping[str, Any]):
        """One line of metrics, wherever somebody may want it."""
        self.log.write(step, split, metrics)
        if self.server:
            self.server.publish(step, split, metrics)

    def evaluate(self, step: int, state: TrainState):
        """Scores the held-out documents, in the end beside gzip, and lets the model write."""
        documents, metrics = self.documents["held_out"], self.evaluator(state.params).metrics()
        if self.probe:
            metrics["memory_worth"] = self.probe.memory_worth(state.params)
        sample = self.writer and self.writer(state.params)
        if not is_main_process():
            return
        self.write(step, "held_out", metrics)
        line = f"step {step:,}: held-out bits per byte {metrics['bits_per_byte']:.3f}"
        line += f", accuracy {metrics['accuracy']:.3f}"
        if self.probe:
            line += f", memory worth {metrics['memory_worth']:.4f} bits a token"
        if step == self.config.train.num_steps and isinstance(documents, ByteDocuments):
            others = compressed_bits_per_byte(documents)
            others = ", ".join(f"{name} {bits:.3f}" for name, bits in others.items())
            line += f"; the same documents compressed one by one: {others}"
        self.note(line)
        if sample:
            self.log.write_text(step, *sample)
            self.note(f"step {step:,}: {sample.note()}")


def check_vocabulary(vocabulary: Vocabulary, model: ModelConfig):
    """Raises UserError where the model's embedding is not made for the corpus's tokens."""
    mend = f"set BlockRecurrentTransformer.vocab_size = {vocabulary.size}"
    if vocabulary.size > model.vocab_size:
        raise UserError(
            f"the corpus has tokens up to {vocabulary.size - 1}, but the model's vocab_size is "
            f"{model.vocab_size}: {mend}"
        )
    if vocabulary.size <= model.vocab_size // 2:  # a padded vocabulary has a few rows more
        raise UserError(
            f"the corpus has the {vocabulary.size} tokens of the vocabulary {vocabulary.name}, but "
            f"the model's vocab_size is {model.vocab_size}: {mend}, or name another corpus"
        )
