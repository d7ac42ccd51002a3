"""The parts of a training run: corpus, lanes, mesh, model, optimizer and the compiled step."""

import dataclasses
import math

import jax

from block_recurrent.config.run_config import RunConfig
from block_recurrent.data.corpora import load_documents, survey_corpus
from block_recurrent.data.findings import count
from block_recurrent.data.lanes import Lanes
from block_recurrent.data.vocabularies import Vocabulary
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath
from block_recurrent.model.config import ModelConfig
from block_recurrent.model.transformer import abstract_model
from block_recurrent.parallel.processes import print_once
from block_recurrent.parallel.sharding import Layout, bytes_per_device, make_mesh, split_heads
from block_recurrent.training.checkpoints import with_shardings
from block_recurrent.training.device_memory import (
    compiler_options,
    memory_line,
    step_memory_line,
)
from block_recurrent.training.optimizers import make_optimizer
from block_recurrent.training.train_step import (
    TrainState,
    TrainStep,
    init_function,
    make_train_step,
    state_shardings,
    use_threefry_kernel,
)
from block_recurrent.training.turns import in_turns


class Setup:
    """Builds everything that a training run needs from its configuration.

    Reads the corpus and checks that all parts fit together. Writes nothing.

    Args:
      config: configuration of the run.

    Raises:
      UserError: corpus, model, batch and devices do not fit together.

    Attributes:
      config: the configuration, with absolute paths, the name of the vocabulary and the number of
        lanes.
      documents: the documents of each split.
      survey: what is known about the documents.
      lanes: the training documents, laid out in batches.
      mesh: the devices.
      layout: how arrays are laid out over the mesh.
      rows: the rows of the global batch that this process feeds.
      graphdef: the structure of the model.
      params: shapes of the model's parameters.
      optimizer: the optax optimizer.
      learning_rate: the learning rate, as a function of the number of updates already made.
      init: makes the first `TrainState`.
      shardings: a `TrainState` of shardings.
      abstract: a `TrainState` of shapes with shardings.
    """

    def __init__(self, config: RunConfig):
        train, model = config.train, split_heads(config.mesh, config.model)
        self.documents = load_documents(config.data)
        self.survey = survey_corpus(config.data, self.documents, model.window_length)
        if not config.data.allow_binary:
            self.survey.refuse_binary()
        vocabulary = self.documents["train"].vocabulary
        check_vocabulary(vocabulary, model)
        self.config = dataclasses.replace(
            config,
            data=config.data.resolved(vocabulary.name),
            train=dataclasses.replace(train, lanes=train.num_lanes),
        )
        self.lanes = Lanes(
            self.documents["train"],
            train.batch_size,
            train.segment_length,
            model.window_length,
            seed=train.seed,
            num_lanes=train.num_lanes,
        )
        self.mesh = make_mesh(config.mesh, model, train.batch_size, microbatches=train.microbatches)
        self.layout = Layout(self.mesh, config.mesh.rules)
        self.rows = self.layout.local_rows(train.batch_size)
        self.graphdef, self.params = abstract_model(model)
        self.optimizer, self.learning_rate = make_optimizer(config.optimizer)
        averages = train.average_decay is not None
        self.init = init_function(model, self.optimizer, train.num_lanes, train.seed, averages)
        abstract = jax.eval_shape(self.init)
        self.shardings = state_shardings(self.layout, abstract)
        self.abstract = with_shardings(abstract, self.shardings)

    def initial_state(self) -> TrainState:
        """The state before the first step, with every part on its devices."""
        with use_threefry_kernel():
            return jax.jit(self.init, out_shardings=self.shardings)()

    def compile_step(self) -> TrainStep:
        """Compiles the training step, and prints the memory that it needs.

        It is compiled ahead of time. Only the small programs that take and put lanes are compiled
        in the first step.
        """
        train, model = self.config.train, split_heads(self.config.mesh, self.config.model)
        graphdef, _ = abstract_model(model, self.layout.sequence_axis)
        step = make_train_step(
            graphdef,
            self.optimizer,
            train.log_every_steps,
            self.layout,
            train.microbatches,
            train.average_decay,
        )
        outputs = self.shardings, self.layout.replicated
        device = self.mesh.local_devices[0]
        options = compiler_options(self.config.model.remat, device.platform)
        jitted = jax.jit(step, donate_argnums=0, out_shardings=outputs, compiler_options=options)
        batch, _ = self.lanes.read(self.lanes.initial_position(), self.rows)
        batch = self.layout.put(batch._replace(turn=None))
        compiled = jitted.lower(self.abstract_rows(), batch).compile()
        for_line = compiled, device, self.config, self.layout.row_ways
        if self.lanes.turns == 1:
            print_once(step_memory_line(*for_line))
            return compiled
        print_once(step_memory_line(*for_line, bytes_per_device(self.abstract.model)))
        return in_turns(compiled, self.layout, self.shardings)

    def abstract_rows(self) -> TrainState:
        """`abstract` with the memory of one lane per row."""

        def rows(leaf):
            shape = leaf.shape[0] // self.lanes.turns, *leaf.shape[1:]
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=leaf.sharding)

        model, finite = jax.tree.map(rows, (self.abstract.model, self.abstract.finite))
        return self.abstract._replace(model=model, finite=finite)

    def summary(self, workdir: AnyPath) -> str:
        """Describes the run in a few lines: model, memory, data, evaluations, steps."""
        train, model = self.config.train, self.config.model
        num_params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.params))
        layers = ", ".join(map(str, model.recurrent_indices))
        memory = f"{model.num_states} states in layer {layers}" if layers else "no recurrence"
        data = [
            f"{documents.num_bytes / 1e6:,.2f} MB in {count(len(documents.lengths))} ({split})"
            for split, documents in self.documents.items()
        ]
        held_out, limit = self.documents["held_out"].num_tokens, train.eval_tokens
        part = f"evals  {limit:,} of {held_out:,} held-out tokens (train.eval_tokens)"
        parts = f" in {train.microbatches} parts" if train.microbatches > 1 else ""
        devices = f"{self.mesh.size} {self.mesh.devices.flat[0].device_kind} device(s)"
        return "\n".join(
            [
                f"model  {num_params / 1e6:,.2f}M parameters, {model.num_layers} layers, window "
                f"{model.window_length}, {memory}",
                f"memory {memory_line(self.abstract)}",
                f"data   {self.config.data.corpus}: {', '.join(data)}",
                *(f"       {line}" for line in self.survey.lines()),
                *([part] if limit is not None and limit < held_out else []),
                f"run    {workdir}: {train.num_steps:,} steps of {train.batch_size} × "
                f"{train.segment_length} tokens{parts} on {devices}",
            ]
        )


def abstract_state(config: RunConfig) -> TrainState:
    """The shapes of what a run with this configuration saves."""
    optimizer, _ = make_optimizer(config.optimizer)
    train = config.train
    averages = train.average_decay is not None
    init = init_function(config.model, optimizer, train.num_lanes, train.seed, averages)
    return jax.eval_shape(init)


def check_vocabulary(vocabulary: Vocabulary, model: ModelConfig):
    """Raises UserError if the size of the model's embedding does not fit the vocabulary."""
    fix = f"set BlockRecurrentTransformer.vocab_size = {vocabulary.size}"
    if vocabulary.size > model.vocab_size:
        raise UserError(
            f"the corpus has tokens up to {vocabulary.size - 1}, but the model's vocab_size is "
            f"{model.vocab_size}: {fix}"
        )
    if vocabulary.size <= model.vocab_size // 2:  # a padded vocabulary has a few more rows
        raise UserError(
            f"the vocabulary {vocabulary.name} of the corpus has {vocabulary.size} tokens, but the "
            f"model's vocab_size is {model.vocab_size}: {fix}, or choose another corpus"
        )
